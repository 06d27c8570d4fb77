"""The training loop of one worker: epochs of exact steps, validation and checkpoints."""

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from brainscale.config.sections import Config
from brainscale.errors import OutputError, TrainError, first_line
from brainscale.models.registry import build_network
from brainscale.seeds import derive, make_deterministic
from brainscale.storage.local import describe_unwritable
from brainscale.storage.workspace import Workspace, open_workspace
from brainscale.training import exact_sum, trace
from brainscale.training.allocator import keep_buffers
from brainscale.training.checkpoints import (
    Progress,
    hash_weights,
    list_checkpoints,
    load_latest_checkpoint,
    save_checkpoint,
)
from brainscale.training.environment import describe_arithmetic
from brainscale.training.fingerprints import Fingerprints, select_float_tensors
from brainscale.training.history import HISTORY_FILE, Epoch, write_history
from brainscale.training.notices import write_notice
from brainscale.training.pace import ReportStep, StepReporter, ignore_step
from brainscale.training.sampler import Batch, count_batches, cut_into_windows, epoch_order
from brainscale.training.step import Learner, Planes, Samples, hold_windows, learning_rate

LASTING_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of the operating system that last: a full disk, a quota, a read-only disk, missing permissions."""
WORKER_FILES = ("checkpoints/*.safetensors", HISTORY_FILE)
"""Files that a worker needs in order to resume a run."""


ReportEpoch = Callable[[int, int, float], None]
"""Takes the number of an epoch, the images that this process trained on in it, and the seconds for them."""


class StoredSamples(Protocol):
    """Planes of some samples, as a driver sends them to its workers."""

    def open(self, side: int) -> Planes:
        """Return access by position to planes of a side, in pixels."""


@dataclass(frozen=True, kw_only=True)
class SplitSamples:
    """The samples of one split, as the driver sends them to the workers.

    Attributes:
        sample_ids: the n sample ids.
        labels: the n class indices.
        planes: where the planes are.
    """

    sample_ids: list[str]
    labels: list[int]
    planes: StoredSamples


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """The input of every worker.

    Attributes:
        config: the complete configuration.
        run: the run folder, an absolute path that all workers share or an address.
        samples: train and val → their samples.
    """

    config: Config
    run: str
    samples: Mapping[str, SplitSamples]


def train_on(
    device: torch.device, job: TrainingJob, report_epoch: ReportEpoch, report_step: ReportStep = ignore_step
) -> None:
    """Train in this process from the latest checkpoint of a run to its end; sets up torch and the allocator for it.

    Args:
        device: where to train.
        job: the input of every worker.
        report_epoch: called by the first worker at the end of each epoch.
        report_step: called by the first worker inside an epoch, once a second at most.

    Raises:
        BrainscaleError: training cannot continue, and would not if it were tried again.
    """
    config = job.config
    keep_buffers()
    make_deterministic(config.train.threads, tf32=config.train.precision == "tf32")
    with errors_for_people(job.run):
        model = config.model
        network = build_network(
            model.name, len(config.data.classes), model.weights, derive(config.train.seed, "weights")
        )
        learner = Learner(network, config.train, config.augment, device)
        train, val = (
            Samples(
                sample_ids=samples.sample_ids,
                labels=np.asarray(samples.labels, np.int64),
                planes=samples.planes.open(config.data.image_size),
            )
            for samples in (job.samples["train"], job.samples["val"])
        )
        with open_workspace(job.run, WORKER_FILES, own_files=["*"], what="run") as workspace:
            TrainingLoop(config, workspace, learner, train, val, report_epoch, report_step).run()


@contextmanager
def errors_for_people(run: str) -> Iterator[None]:
    """Raise a BrainscaleError for each error of the with-block that a new worker would meet again.

    Args:
        run: path or address of the run folder.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in LASTING_ERRNO:
            raise
        path = error.filename or run
        raise OutputError(describe_unwritable(path, error)) from None
    except torch.OutOfMemoryError as error:
        raise TrainError(
            f"the GPU has too little memory ({first_line(error)}): use a larger GPU, or a new --out with a smaller "
            "train.micro_batch or data.image_size"
        ) from None


class TrainingLoop:
    """The training loop of one worker.

    Args:
        config: the complete configuration.
        workspace: the run folder, with the latest checkpoints.
        learner: the network and its optimiser.
        train: training samples.
        val: validation samples (model selection).
        report_epoch: called by the first worker at the end of each epoch.
        report_step: called by the first worker inside an epoch.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        learner: Learner,
        train: Samples,
        val: Samples,
        report_epoch: ReportEpoch,
        report_step: ReportStep = ignore_step,
    ) -> None:
        self.settings, self.resources = config.train, config.resources
        self.workspace, self.run_folder, self.checkpoints = workspace, workspace.path, workspace.path / "checkpoints"
        self.learner, self.train, self.val = learner, train, val
        self.is_first = exact_sum.rank_and_world_size()[0] == 0  # the worker that writes the files
        self.tensors = select_float_tensors(learner.network.state_dict())
        self.fingerprints = Fingerprints(list(self.tensors.values()))
        self.unfetched: list[tuple[trace.StepRow, torch.Tensor]] = []
        self.arithmetic = describe_arithmetic(learner.device)
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.report_epoch = report_epoch
        self.report_step = report_step if self.is_first else ignore_step

    def run(self) -> None:
        """Train until the last epoch, or until the validation loss has stopped improving."""
        progress = self.progress = self._resume()
        while progress.epoch < self.settings.epochs and not self._is_out_of_patience():
            self._train_epoch(progress.epoch + 1)
            self._end_epoch()

    def _is_out_of_patience(self) -> bool:
        settings = self.settings
        return settings.keep == "best" and self.progress.is_out_of_patience(settings.patience, settings.min_gain)

    def _resume(self) -> Progress:
        """Load the latest checkpoint and return its progress."""
        on_notice = self._write_notice if self.is_first else lambda text: None
        learner = self.learner
        progress = load_latest_checkpoint(
            self.checkpoints, learner.network, learner.optimizer, on_notice, learner.average
        )
        position = torch.tensor([progress.epoch, progress.totals.steps], device=self.learner.device)
        if not exact_sum.is_equal_on_all_workers(position):
            raise TrainError(
                f"workers see different files in {self.workspace}: choose an --out on storage that all nodes share"
            )
        self._require_arithmetic(progress, on_notice)
        if self.is_first and progress.history:
            write_history(progress.history, self.run_folder)  # a kill may have come between checkpoint and history
        if progress.history or progress.totals.steps:
            on_notice(f"resuming after epoch {progress.epoch}, step {progress.totals.steps} of the next epoch")
        return progress

    def _require_arithmetic(self, progress: Progress, on_notice: Callable[[str], None]) -> None:
        """Refuse workers of several kinds, and a run that was trained on another kind unless that is allowed."""
        kind = torch.tensor([self.arithmetic.fingerprint], device=self.learner.device)
        if not exact_sum.is_equal_on_all_workers(kind):
            raise TrainError(
                "the workers run on different hardware or library versions (one of them on "
                f"{self.arithmetic.to_text()}): use nodes of one kind"
            )
        difference = progress.arithmetics[-1].difference(self.arithmetic) if progress.arithmetics else None
        if difference and not self.resources.allow_other_hardware:
            raise TrainError(
                f"{self.workspace} was trained on other hardware or library versions ({difference}): resume it there, "
                "or add --allow-other-hardware, which gives other bits and marks the run"
            )
        if difference:
            on_notice(f"resuming on other hardware or library versions ({difference}): the bits differ from here on")
        if difference and (progress.totals.steps or not progress.history):
            progress.arithmetics.append(self.arithmetic)
        elif difference or not progress.arithmetics:
            progress.arithmetics[:] = [self.arithmetic]

    def _train_epoch(self, epoch: int) -> None:
        """Take the remaining steps of an epoch."""
        settings = self.settings
        order = epoch_order(len(self.train.sample_ids), settings.seed, epoch, settings.window)
        sizes = settings.window, settings.batch_size, settings.micro_batches
        count, totals = count_batches(len(order), *sizes), self.progress.totals
        start_time, first_step, first_sample = time.monotonic(), totals.steps, totals.samples
        reporter = StepReporter(self.report_step, epoch, count, first_step)
        windows = cut_into_windows(order, *sizes, skip=first_step)
        for step, batch in enumerate(hold_windows(self.train.planes, windows), first_step):
            rate = learning_rate((epoch - 1) * count + step, count, settings)
            if shard := self.progress.add_step(self._step(batch, epoch, step, rate)):
                self._write_steps(shard)
            reporter.add_step(step + 1, totals.samples - first_sample)
            if self.is_first and step + 1 < count and self._checkpoint_is_due(step + 1):
                self._save_checkpoint()
        if self.is_first:
            images = totals.samples - first_sample
            self.report_epoch(epoch, images, time.monotonic() - start_time)

    def _step(self, batch: Batch, epoch: int, step: int, rate: float) -> trace.StepRow:
        """Take one step and return its row of the trace."""
        try:
            outcome = self.learner.step(self.train, batch, epoch, step, rate)
        except TrainError as error:
            raise TrainError(f"{error} ({self._describe_last_checkpoint()})") from None
        row: trace.StepRow = {
            "epoch": epoch,
            "step": step + 1,
            "learning_rate": rate,
            "samples": len(outcome.losses),
            "loss_sum": outcome.loss_sum,
            "correct": outcome.correct,
            "weights": [],
        }
        self.unfetched.append((row, self.fingerprints.compute()))
        return row

    def _fetch_fingerprints(self) -> None:
        """Put the fingerprints of the latest steps into their rows; on a GPU, only this waits for them."""
        rows, fingerprints = zip(*self.unfetched, strict=True) if self.unfetched else ((), ())
        for row, numbers in zip(rows, torch.stack(fingerprints).tolist() if rows else (), strict=True):
            row["weights"] = numbers
        self.unfetched.clear()

    def _end_epoch(self) -> None:
        """Validate, check that all workers have the same weights, and write the epoch's results."""
        self._fetch_fingerprints()
        progress, totals, last = self.progress, self.progress.totals, self.progress.steps[-1]
        self._require_equal_weights(last)
        if self.settings.norm_statistics == "precise" and self._can_be_kept(progress.epoch + 1):
            self._measure_norm_statistics(progress.epoch + 1)
        outcome = self.learner.validate(self.val)
        val_count = len(outcome.losses)
        val_loss = outcome.loss_sum / val_count
        row: Epoch = {
            "epoch": progress.epoch + 1,
            "learning_rate": last["learning_rate"],
            "train_loss": totals.loss_sum / totals.samples,
            "train_accuracy": totals.correct / totals.samples,
            "val_loss": val_loss,
            "val_accuracy": outcome.correct / val_count,
            "best": self._is_kept(progress.epoch + 1, val_loss),
            "weights_sha256": hash_weights(self.learner.evaluated.state_dict()),
            "hardware": progress.hardware,
        }
        self._write_steps(progress.steps)
        progress.end_epoch(row)
        if self.is_first:
            self._save_checkpoint()
            write_history(progress.history, self.run_folder)
            self.workspace.push()

    def _measure_norm_statistics(self, epoch: int) -> None:
        try:
            self.learner.measure_norm_statistics(self.train, epoch)
        except TrainError as error:
            raise TrainError(f"{error} (after epoch {epoch}; {self._describe_last_checkpoint()})") from None

    def _can_be_kept(self, epoch: int) -> bool:
        """Return whether the weights of an epoch may be those of the run."""
        return self.settings.keep == "best" or epoch == self.settings.epochs

    def _is_kept(self, epoch: int, val_loss: float) -> bool:
        """Return whether the weights of an epoch are the best so far, or those of the last epoch if that is kept."""
        return self._can_be_kept(epoch) and (self.settings.keep == "last" or self.progress.is_best(val_loss))

    def _write_steps(self, rows: list[trace.StepRow]) -> None:
        """Write a shard of the trace, before any checkpoint that leaves these rows out."""
        self._fetch_fingerprints()
        if self.is_first:
            trace.write_steps(rows, list(self.tensors), self.run_folder)
            self.workspace.push()

    def _require_equal_weights(self, row: trace.StepRow) -> None:
        fingerprints = torch.tensor(row["weights"], device=self.learner.device)
        if not exact_sum.is_equal_on_all_workers(fingerprints):
            raise TrainError(
                f"workers have different weights after epoch {row['epoch']}, because their processors or libraries "
                "differ: use nodes of one kind"
            )

    def _checkpoint_is_due(self, step: int) -> bool:
        steps = self.resources.checkpoint_steps
        is_time = time.monotonic() - self.saved_at >= self.resources.checkpoint_seconds
        return is_time or (steps is not None and step % steps == 0)

    def _save_checkpoint(self) -> None:
        self._fetch_fingerprints()
        learner = self.learner
        save_checkpoint(self.checkpoints, learner.network, learner.optimizer, self.progress, learner.average)
        self.workspace.push()
        self.saved_at = time.monotonic()

    def _describe_last_checkpoint(self) -> str:
        paths = list_checkpoints(self.checkpoints)
        return f"the last checkpoint is checkpoints/{paths[-1].name}" if paths else "there is no checkpoint yet"

    def _write_notice(self, text: str) -> None:
        write_notice(self.run_folder, text)
        self.workspace.push()
