"""Train and evaluate the folds of a cross-validation side by side, each in a Ray task of its own."""

from collections.abc import Callable, Sequence

import ray
from ray.exceptions import RayError, RayTaskError

from brainscale.config.sections import Config
from brainscale.errors import BrainscaleError, TrainError, first_line
from brainscale.evaluation.folds import PROGRESS_FILES, Fold, follow_fold, train_and_evaluate
from brainscale.storage.workspace import Workspace
from brainscale.training.driver import STORE_POLL_SECONDS
from brainscale.training.workers import count_workers, uses_gpu

LOOK_S = 0.5
"""Seconds between two looks at what the folds have written."""


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
                publish = follow_fold(fold, config.train.epochs, on_notice)
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
    train_and_evaluate(manifest, run, config)


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
