"""Train and evaluate the folds of a cross-validation side by side, each in a Ray task of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError, RayTaskError

from brainscale.config.sections import Config
from brainscale.errors import BrainscaleError, TrainError, first_line
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.storage.remote import join_address
from brainscale.storage.workspace import Workspace, is_complete
from brainscale.training.driver import STORE_POLL_SECONDS, train_model
from brainscale.training.history import HISTORY_FILE, read_history
from brainscale.training.notices import read_notices
from brainscale.training.run_folder import RunFolder
from brainscale.training.workers import count_workers, uses_gpu

LOOK_S = 0.5
"""Seconds between two looks at what the folds have written."""
PROGRESS_FILES = (f"repeat-*/{HISTORY_FILE}", "repeat-*/notices/*")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One model of the cross-validation.

    Attributes:
        title: its repeat and number, for people.
        name_of_run: its run folder, relative to the folder of all runs.
        manifest: its manifest, a path or an address.
        run: its run folder, a path or an address.
        copy: its run folder, or a local copy of what is needed of it.
    """

    title: str
    name_of_run: str
    manifest: str
    run: str
    copy: Path

    @property
    def evaluation(self) -> Path:
        """Local folder of its evaluation."""
        return RunFolder(self.copy).evaluation("test")


def folds_at_once(config: Config, parallel_folds: int | None = None) -> int:
    """Return how many folds can train at the same time, with one CPU left for reading.

    Args:
        config: configuration of each fold.
        parallel_folds: maximum; without it, folds on CPUs do not get fewer CPUs than their workers have threads.
    """
    resources, workers = ray.cluster_resources(), count_workers(config)
    count = (resources.get("CPU", 0) - 1) // workers
    if uses_gpu(config):
        count = min(count, resources.get("GPU", 0) // workers)
    elif parallel_folds is None:
        count = count // config.train.threads
    return max(1, int(count if parallel_folds is None else min(count, parallel_folds)))


def train_folds(
    folds: Sequence[Fold], workspace: Workspace, config: Config, parallel_folds: int, on_notice: Callable[[str], None]
) -> None:
    """Train and evaluate all folds, `parallel_folds` of them side by side, and pass on their progress.

    Each has a small driver of its own, a Ray task: Ray Train's handling of signals is one for a process.

    Args:
        folds: the folds.
        workspace: folder of all runs.
        config: configuration of each fold.
        parallel_folds: number of folds side by side.
        on_notice: called with a line when a fold begins, ends an epoch, or has something to tell.

    Raises:
        BrainscaleError: a fold failed; those beside it are stopped, and resume when the command is run again.
    """
    workspace.pull(*PROGRESS_FILES)
    waiting = list(folds)
    running: dict[ray.ObjectRef[None], tuple[Fold, Callable[[], None]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel_folds:
                fold = waiting.pop(0)
                on_notice(fold.title)
                publish = _publisher(fold, config.train.epochs, on_notice)
                running[_train_and_evaluate.remote(fold.manifest, fold.run, config)] = fold, publish
            ended, _ = ray.wait(list(running), timeout=LOOK_S if workspace.store is None else STORE_POLL_SECONDS)
            workspace.pull(*PROGRESS_FILES)
            for _, publish in running.values():
                publish()
            for task in ended:
                _raise_error(running.pop(task)[0], task)
    finally:
        for task in running:
            ray.cancel(task, force=True)  # its trainer and workers are its own, and end with it


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)  # a process of its own: its actors and their CPUs end with it
def _train_and_evaluate(manifest: str, run: str, config: Config) -> None:
    train_model(manifest, run, config)
    if not is_complete(join_address(run, "evaluation/test")):
        evaluate_model(run, workers=1)  # the other folds hold the rest


def _raise_error(fold: Fold, task: "ray.ObjectRef[None]") -> None:
    """Raise the error of a fold that failed."""
    try:
        ray.get(task)
    except RayTaskError as error:
        if isinstance(error.cause, BrainscaleError):
            raise error.cause from error
        raise
    except RayError as error:
        raise TrainError(f"{fold.title}: {first_line(error)}; run the same command again to resume") from error


def _publisher(fold: Fold, epochs: int, on_notice: Callable[[str], None]) -> Callable[[], None]:
    """Return a function that passes on what a fold's run has written since it was last called."""
    published_epochs, published_notices = len(read_history(fold.copy)), set(read_notices(fold.copy))

    def publish() -> None:
        nonlocal published_epochs
        for name, text in read_notices(fold.copy, skip=published_notices).items():
            published_notices.add(name)
            on_notice(f"{fold.title}: {text}")
        for row in read_history(fold.copy)[published_epochs:]:
            published_epochs += 1
            losses = f"train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}"
            on_notice(f"{fold.title}: epoch {row['epoch']}/{epochs}, {losses}")

    return publish
