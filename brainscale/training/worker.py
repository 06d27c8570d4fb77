"""What each training worker runs: epochs of exact steps, validation, checkpoints."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch

from brainscale.cluster.telemetry import TrainingMeter
from brainscale.config.sections import Config
from brainscale.errors import BrainscaleError, TrainError
from brainscale.models.registry import build
from brainscale.seeds import derive, deterministic
from brainscale.storage.workspace import Workspace, open_workspace
from brainscale.training import exact_sum, trace
from brainscale.training.allocator import keep_buffers
from brainscale.training.checkpoints import Progress, load_latest, save_checkpoint, weights_sha256
from brainscale.training.history import HISTORY_FILE, Epoch, write_history
from brainscale.training.notices import write_notice
from brainscale.training.plane_store import PlaneLocations, PlaneStore
from brainscale.training.sampler import cut, epoch_order
from brainscale.training.step import Learner, Samples, learning_rate

CHECKPOINTS = ("checkpoints/*.safetensors", "steps/*", HISTORY_FILE)
"""Files that a worker needs in order to resume a run."""


@dataclass(frozen=True, kw_only=True)
class SplitSamples:
    """The samples of one split, as the driver hands them to the workers.

    Attributes:
        sample_ids: [n].
        labels: class indices [n].
        planes: where their planes are.
    """

    sample_ids: list[str]
    labels: list[int]
    planes: PlaneLocations


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What the driver hands to every worker.

    Attributes:
        config: the resolved configuration.
        run: the run's folder, an absolute path that every worker sees or an address.
        samples: train and val → their samples.
    """

    config: Config
    run: str
    samples: Mapping[str, SplitSamples]


def train_worker(arguments: Mapping[str, TrainingJob]) -> str | None:
    """Train from the latest checkpoint of a run to its end; Ray Train calls this on each worker.

    Args:
        arguments: `job`, the training job.

    Returns:
        Why training cannot continue, for the driver to raise: an exception here would only be tried again.
    """
    job = arguments["job"]
    config = job.config
    keep_buffers()
    deterministic(config.train.threads, tf32=config.train.precision == "tf32")
    try:
        model = config.model
        network = build(model.name, len(config.data.classes), model.weights, derive(config.train.seed, "weights"))
        learner = Learner(network, config.train, config.augment, ray.train.torch.get_device())
        train, val = (
            Samples(
                sample_ids=samples.sample_ids,
                labels=np.asarray(samples.labels, np.int64),
                planes=PlaneStore(samples.planes, config.data.image_size),
            )
            for samples in (job.samples["train"], job.samples["val"])
        )
        with open_workspace(job.run, CHECKPOINTS, known=["*"]) as workspace:
            TrainingLoop(config, workspace, learner, train, val).run()
    except BrainscaleError as error:
        return str(error)
    return None


class TrainingLoop:
    """One worker's view of a run.

    Args:
        config: the resolved configuration.
        run: the run folder; its `path` holds the latest checkpoints.
        learner: the network.
        train: samples to learn from.
        val: samples that choose the model.
    """

    def __init__(self, config: Config, run: Workspace, learner: Learner, train: Samples, val: Samples) -> None:
        self.settings, self.resources = config.train, config.resources
        self.place, self.run_folder, self.checkpoints = run, run.path, run.path / "checkpoints"
        self.learner, self.train, self.val = learner, train, val
        self.leads = exact_sum.rank_and_world()[0] == 0
        self.tensors = trace.floats(learner.network.state_dict())
        self.factors = trace.multipliers(learner.device)
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.meter = TrainingMeter()

    def run(self) -> None:
        """Train until the epochs or the patience end."""
        progress = self.progress = self._resume()
        while progress.epoch < self.settings.epochs and not progress.exhausted(self.settings.patience):
            self._train_epoch(progress.epoch + 1)
            self._end_epoch()

    def _resume(self) -> Progress:
        say = self._notice if self.leads else lambda text: None
        progress = load_latest(self.checkpoints, self.learner.network, self.learner.optimizer, say)
        if not exact_sum.same_everywhere(
            torch.tensor([progress.epoch, len(progress.steps)], device=self.learner.device)
        ):
            raise TrainError(f"workers see different files in {self.place}: it must be one folder for all")
        if self.leads and progress.history:
            write_history(progress.history, self.run_folder)  # a kill may have come between checkpoint and history
        if progress.history or progress.steps:
            say(f"going on after epoch {progress.epoch}, step {len(progress.steps)} of the next")
        return progress

    def _train_epoch(self, epoch: int) -> None:
        """The steps of an epoch that are still to be done."""
        settings = self.settings
        order = epoch_order(len(self.train.sample_ids), settings.seed, epoch, settings.window)
        plan = list(cut(order, settings.window, settings.batch_size, settings.micro_batches))
        began, done = time.monotonic(), len(self.progress.steps)
        for step in range(done, len(plan)):
            window, batch = plan[step]
            self.train.planes.hold(window)
            rate = learning_rate((epoch - 1) * len(plan) + step, len(plan), settings)
            self.progress.steps.append(self._step(batch, epoch, step, rate))
            if self.leads and step + 1 < len(plan) and self._due(step + 1):
                self._save()
        if self.leads:
            images = sum(row["samples"] for row in self.progress.steps[done:])
            self.meter.epoch(epoch, images, time.monotonic() - began)

    def _step(self, batch: list[np.ndarray], epoch: int, step: int, rate: float) -> dict[str, Any]:
        """One step → its row of schema STEPS."""
        try:
            outcome = self.learner.step(self.train, batch, epoch, step, rate)
        except TrainError as error:
            raise TrainError(f"{error} ({self._kept()})") from None
        weights = trace.fingerprints(list(self.tensors.values()), self.factors)
        return {
            "epoch": epoch,
            "step": step + 1,
            "learning_rate": rate,
            "samples": len(outcome.losses),
            "loss_sum": outcome.loss_sum,
            "correct": outcome.correct,
            "weights": weights.tolist(),
        }

    def _end_epoch(self) -> None:
        """Validate, check that all workers agree, and write what came of the epoch."""
        progress, steps = self.progress, self.progress.steps
        self._agree(steps[-1])
        outcome = self.learner.validate(self.val)
        count, val_count = sum(row["samples"] for row in steps), len(outcome.losses)
        val_loss = outcome.loss_sum / val_count
        row: Epoch = {
            "epoch": progress.epoch + 1,
            "learning_rate": steps[-1]["learning_rate"],
            "train_loss": sum(row["loss_sum"] for row in steps) / count,
            "train_accuracy": sum(row["correct"] for row in steps) / count,
            "val_loss": val_loss,
            "val_accuracy": outcome.correct / val_count,
            "best": progress.improves(val_loss, self.settings.min_gain),
            "weights_sha256": weights_sha256(self.learner.network.state_dict()),
        }
        if self.leads:
            trace.write_epoch(steps, list(self.tensors), self.run_folder, row["epoch"])
        progress.history.append(row)
        progress.steps.clear()
        if self.leads:
            self._save()
            write_history(progress.history, self.run_folder)
            self.place.push()

    def _agree(self, row: dict[str, Any]) -> None:
        if not exact_sum.same_everywhere(torch.tensor(row["weights"], device=self.learner.device)):
            raise TrainError(
                f"workers hold different weights after epoch {row['epoch']}: their processors or libraries differ; "
                "give all workers nodes of one kind"
            )

    def _due(self, step: int) -> bool:
        every = self.resources.checkpoint_steps
        late = time.monotonic() - self.saved_at >= self.resources.checkpoint_seconds
        return late or (every is not None and step % every == 0)

    def _save(self) -> None:
        save_checkpoint(self.checkpoints, self.learner.network, self.learner.optimizer, self.progress)
        self.place.push()
        self.saved_at = time.monotonic()

    def _kept(self) -> str:
        kept = sorted(p.name for p in self.checkpoints.glob("last-*.safetensors"))
        return f"the last good state is checkpoints/{kept[-1]}" if kept else "no state was kept before it"

    def _notice(self, text: str) -> None:
        write_notice(self.run_folder, text)
        self.place.push()
