"""Train and evaluate the folds of a cross-validation side by side, each in a Ray task of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from brainscale.config.sections import Config
from brainscale.errors import BrainscaleError, TrainError, first_line
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.storage.remote import below
from brainscale.storage.workspace import Workspace, is_complete
from brainscale.training.driver import STORE_S, train_model
from brainscale.training.history import read_history
from brainscale.training.notices import read_notices
from brainscale.training.workers import uses_gpu, workers_of

LOOK_S = 0.5
"""Seconds between two looks at what the folds have written."""


SAID = ("repeat-*/history.parquet", "repeat-*/notices/*")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One model of the cross-validation.

    Attributes:
        name: for people.
        manifest: what it learns from, a path or an address.
        run: its run folder, a path or an address.
        copy: what is at hand of the run.
    """

    name: str
    manifest: str
    run: str
    copy: Path

    @property
    def evaluation(self) -> Path:
        """Where its figures are at hand."""
        return self.copy / "evaluation" / "test"


def folds_at_once(config: Config, at_once: int | None = None) -> int:
    """How many folds find their workers at the same time, a CPU left for reading; `at_once` of them at most.

    Unless told how many, folds on CPUs are not given fewer CPUs than their workers have threads.
    """
    have, workers = ray.cluster_resources(), workers_of(config)
    fit = (have.get("CPU", 0) - 1) // workers
    if uses_gpu(config):
        fit = min(fit, have.get("GPU", 0) // workers)
    elif at_once is None:
        fit = fit // config.train.threads
    return max(1, int(fit if at_once is None else min(fit, at_once)))


def train_folds(
    every: Sequence[Fold], folder: Workspace, config: Config, at_once: int, say: Callable[[str], None]
) -> None:
    """Train and evaluate all folds, so many at a time, and pass on what they write.

    Each has a small driver of its own, a Ray task: Ray Train's handling of signals is one for a process.

    Raises:
        BrainscaleError: a fold failed; those beside it are stopped, and go on when the command is run again.
    """
    folder.pull(*SAID)
    waiting = list(every)
    running: dict[ray.ObjectRef[None], tuple[Fold, Callable[[], None]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                one = waiting.pop(0)
                say(one.name)
                publish = _publisher(one, config.train.epochs, say)
                running[_train_and_evaluate.remote(one.manifest, one.run, config)] = one, publish
            done, _ = ray.wait(list(running), timeout=LOOK_S if folder.store is None else STORE_S)
            folder.pull(*SAID)
            for _, publish in running.values():
                publish()
            for task in done:
                _ended(running.pop(task)[0], task)
    finally:
        for task in running:
            ray.cancel(task, force=True)  # its trainer and workers are its own, and end with it


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)  # a process of its own: its actors and their CPUs end with it
def _train_and_evaluate(manifest: str, run: str, config: Config) -> None:
    train_model(manifest, run, config)
    if not is_complete(below(run, "evaluation/test")):
        evaluate_model(run, workers=1)  # the other folds hold the rest


def _ended(one: Fold, task: "ray.ObjectRef[None]") -> None:
    """Raise what a fold raised."""
    try:
        ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, BrainscaleError):
            raise error.cause from error
        raise
    except RayError as error:
        raise TrainError(f"{one.name}: {first_line(error)}; run the same command again to go on") from error


def _publisher(one: Fold, epochs: int, say: Callable[[str], None]) -> Callable[[], None]:
    """A function that says what a fold's run has written since it was last called."""
    seen, heard = len(read_history(one.copy)), set(read_notices(one.copy))

    def publish() -> None:
        nonlocal seen
        for name, text in read_notices(one.copy, but=heard).items():
            heard.add(name)
            say(f"{one.name}: {text}")
        for row in read_history(one.copy)[seen:]:
            seen += 1
            losses = f"train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}"
            say(f"{one.name}: epoch {row['epoch']}/{epochs}, {losses}")

    return publish
