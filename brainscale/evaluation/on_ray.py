"""Train and evaluate the folds of a cross-validation side by side, each in a Ray task of its own."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import ray
from ray.exceptions import RayError, RayTaskError

from brainscale import progress
from brainscale.config.sections import Config
from brainscale.errors import BrainscaleError, TrainError, first_line
from brainscale.evaluation.folds import PROGRESS_FILES, Fold, follow_fold, train_and_evaluate
from brainscale.progress import Progress
from brainscale.reading.on_ray import Mailbox
from brainscale.storage.workspace import Workspace
from brainscale.training.driver import STORE_POLL_SECONDS
from brainscale.training.pace import REPORT_SECONDS
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
    mailbox, listener = Mailbox() if progress.is_watched() else None, progress.current_listener()
    watching = nullcontext() if mailbox is None else mailbox.received_by(listener.show)
    running: dict[ray.ObjectRef[None], tuple[Fold, Callable[[], None]]] = {}
    try:
        with watching:
            while waiting or running:
                while waiting and len(running) < parallel_folds:
                    fold = waiting.pop(0)
                    on_notice(fold.title)
                    publish = follow_fold(fold, config.train.epochs, on_notice)
                    task = _train_and_evaluate.remote(fold.manifest, fold.run, config, fold.title, mailbox)
                    running[task] = fold, publish
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
def _train_and_evaluate(manifest: str, run: str, config: Config, title: str, mailbox: Mailbox | None) -> None:
    if mailbox is None:
        train_and_evaluate(manifest, run, config)
        return
    with progress.shown_by(_MailedProgress(mailbox)), progress.within(title):
        train_and_evaluate(manifest, run, config)


class _MailedProgress:
    """Sends the progress of a fold to the driver of all folds, once a second at most.

    Args:
        mailbox: where to.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox, self._sent = mailbox, 0.0

    def announce(self, text: str) -> None:
        """Do nothing: the driver of all folds tells what a fold writes down."""

    def show(self, progress: Progress) -> None:
        """Send how far a stage is."""
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self._sent = time.monotonic()
            self._mailbox.send(progress)


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
