"""Train and evaluate the folds of a cross-validation one after another, and pass on what their runs write."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainscale import progress
from brainscale.config.environment import count_cpus
from brainscale.config.sections import Config
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.formatting import format_duration
from brainscale.storage.remote import join_address
from brainscale.storage.workspace import Workspace, is_complete
from brainscale.training.driver import train_model
from brainscale.training.history import HISTORY_FILE, read_history
from brainscale.training.locally import can_train_here, planes_fit_here
from brainscale.training.notices import read_notices
from brainscale.training.run_folder import RunFolder

WORTH_TELLING_SECONDS = 60.0
"""Seconds for a fold beyond which the time for the others is told."""
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


def can_train_folds_here(config: Config, parallel_folds: int | None, samples: int = 0) -> bool:
    """Return whether folds do without Ray: each of them could, and this machine has the CPUs for one at a time.

    Args:
        config: configuration of each fold.
        parallel_folds: maximum number of folds side by side; None for as many as there is room for.
        samples: number of samples of all folds.
    """
    at_once = (count_cpus() - 1) // config.train.threads if parallel_folds is None else parallel_folds
    return at_once <= 1 and can_train_here(config) and planes_fit_here(samples, config)


def train_folds_here(
    folds: Sequence[Fold], workspace: Workspace, config: Config, on_notice: Callable[[str], None]
) -> None:
    """Train and evaluate all folds, one after another.

    Args:
        folds: the folds.
        workspace: folder of all runs.
        config: configuration of each fold.
        on_notice: called with a line when a fold begins, ends an epoch, or has something to tell.

    Raises:
        BrainscaleError: a fold failed; it resumes when the command is run again.
    """
    workspace.pull(*PROGRESS_FILES)
    for number, fold in enumerate(folds, 1):
        on_notice(fold.title)
        began = time.monotonic()
        publish = follow_fold(fold, config.train.epochs, on_notice)

        def publish_news(news: object) -> None:  # noqa: ARG001 (it is in the run's files, too)
            workspace.pull(*PROGRESS_FILES)
            publish()  # noqa: B023 (called before the next fold begins)

        with progress.within(fold.title):
            train_and_evaluate(fold.manifest, fold.run, config, publish_news)
        publish_news(None)
        seconds, left = time.monotonic() - began, len(folds) - number
        if left and seconds > WORTH_TELLING_SECONDS:
            duration = format_duration(seconds)
            progress.announce(
                f"{fold.title} took {duration}: about {format_duration(left * seconds)} for the other {left}"
            )


def train_and_evaluate(
    manifest: str, run: str, config: Config, on_news: Callable[[object], None] = lambda news: None
) -> None:
    """Train one fold and evaluate it on its test split, as far as that is not done.

    Args:
        manifest: path or address of its manifest.
        run: path or address of its run folder.
        config: its configuration.
        on_news: called when the run has written an epoch or a notice.
    """
    train_model(manifest, run, config, on_news, on_news)
    if not is_complete(join_address(run, "evaluation/test")):
        evaluate_model(run, workers=1)  # the other folds hold the rest


def follow_fold(fold: Fold, epochs: int, on_notice: Callable[[str], None]) -> Callable[[], None]:
    """Return a function that passes on what a fold's run has written since it was last called.

    Args:
        fold: the fold.
        epochs: maximum number of epochs.
        on_notice: called with each line.
    """
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
