"""What each training worker runs: epochs of exact steps, validation, a checkpoint after each epoch."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainscale import exact
from brainscale.augment import augment
from brainscale.checkpoints import load_latest, save_checkpoint, weights_sha256
from brainscale.config import Config, TrainConfig, parse
from brainscale.errors import TrainError
from brainscale.models.registry import build
from brainscale.models.scorer import normalise
from brainscale.schema import HISTORY
from brainscale.seeds import derive, deterministic
from brainscale.tensors import Blocks, PlaneStore, batches, epoch_order

FIGURES = 2  # loss sum and correct answers travel with the gradients


@dataclass(frozen=True, kw_only=True)
class Side:
    """Training or validation samples, in the order of their ids.

    Attributes:
        sample_ids: the keys.
        labels: int64 [n], class indices.
        planes: uint8 planes by position.
    """

    sample_ids: Sequence[str]
    labels: np.ndarray
    planes: PlaneStore


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver hands to every worker.

    Attributes:
        config: the resolved configuration.
        run: absolute path of the run folder, seen by every worker.
        blocks: decoded planes in the object store.
        sides: train and val → (sample ids, class indices).
    """

    config: dict[str, Any]
    run: str
    blocks: Blocks
    sides: dict[str, tuple[list[str], list[int]]]


def worker(job: dict[str, Any]) -> None:
    """Ray Train's entry: train from the latest checkpoint of the run to its end."""
    work = Job(**job)
    config = parse(work.config)
    deterministic(config.train.threads)
    device = ray.train.torch.get_device()
    sides = {name: _side(work, name, config.data.image_size) for name in ("train", "val")}
    loop = Loop(config, Path(work.run), device, sides["train"], sides["val"])
    loop.run()


def _side(job: Job, name: str, size: int) -> Side:
    sample_ids, labels = job.sides[name]
    return Side(
        sample_ids=sample_ids,
        labels=np.asarray(labels, np.int64),
        planes=PlaneStore(job.blocks, sample_ids, size),
    )


class Loop:
    """One worker's view of a run.

    Args:
        config: the resolved configuration.
        run: the run folder.
        device: where the network lives.
        train: samples to learn from.
        val: samples that choose the model.
    """

    def __init__(self, config: Config, run: Path, device: torch.device, train: Side, val: Side) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.config, self.run_folder, self.device = config, run, device
        self.train, self.val = train, val
        model = config.model
        self.network = build(model.name, len(config.data.classes), model.weights, derive(config.train.seed, "weights"))
        self.network.to(device)
        self.optimizer = make_optimizer(self.network, config.train)

    def run(self) -> None:
        """Train until the epochs or the patience end."""
        settings, folder = self.config.train, self.run_folder / "checkpoints"
        progress = load_latest(folder, self.network, self.optimizer)
        if self.rank == 0 and progress.history:
            write_history(progress.history, self.run_folder)  # a kill may have come between checkpoint and history
        while progress.epoch < settings.epochs and not progress.exhausted(settings.patience):
            epoch = progress.epoch + 1
            learned = self.train_epoch(epoch)
            validated = self.validate()
            best = progress.improves(validated["val_loss"], settings.min_gain)
            sha256 = weights_sha256(self.network.state_dict())
            row = {"epoch": epoch, **learned, **validated, "best": best, "weights_sha256": sha256}
            progress.history.append(row)
            if self.rank == 0:
                save_checkpoint(folder, self.network, self.optimizer, progress)
                write_history(progress.history, self.run_folder)
            ray.train.report({"epoch": epoch})  # a barrier: no worker runs ahead of the checkpoint

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training samples; figures are sums over samples, as they were trained."""
        settings = self.config.train
        order = epoch_order(len(self.train.sample_ids), settings.seed, epoch)
        cut = list(batches(order, settings.batch_size, settings.micro_batches))
        loss = correct = 0.0
        for step, batch in enumerate(cut):
            rate = learning_rate((epoch - 1) * len(cut) + step, len(cut), settings)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            batch_loss, batch_correct = self.step(batch, epoch, step)
            loss, correct = loss + batch_loss, correct + batch_correct
        count = len(order)
        return {"learning_rate": rate, "train_loss": loss / count, "train_accuracy": correct / count}

    def step(self, batch: list[np.ndarray], epoch: int, step: int) -> tuple[float, float]:
        """One exact optimiser step on a global batch.

        Args:
            batch: positions of each of its micro-batches.
            epoch: from 1.
            step: within the epoch, from 0.

        Returns:
            Sum of the losses and number of right answers over the global batch.

        Raises:
            TrainError: the loss is not finite.
        """
        self.network.train()
        size = sum(map(len, batch))
        share = self._share(batch)
        with exact.micro_batch_statistics(self.network) as statistics:
            vectors = (self._micro_batch(batch[m], size, epoch, step, m, statistics) for m in share)
            local = exact.tree_sum(vectors)
        figures = exact.unpack(self.network, exact.sum_over_workers(local), FIGURES).tolist()
        if not math.isfinite(figures[0]):
            raise TrainError(
                f"the loss became {figures[0]} at epoch {epoch}, step {step + 1}: lower train.learning_rate; "
                "the state before this epoch is kept in checkpoints/"
            )
        self.optimizer.step()
        return figures[0], figures[1]

    def _share(self, batch: list[np.ndarray]) -> range:
        each = len(batch) // self.world
        return range(self.rank * each, (self.rank + 1) * each)

    def _micro_batch(
        self, positions: np.ndarray, size: int, epoch: int, step: int, number: int, statistics: list[Tensor]
    ) -> Tensor:
        """Forward and backward of one micro-batch → its vector; an empty one gives zeros."""
        if len(positions) == 0:
            return torch.zeros(exact.packed_length(self.network, FIGURES), device=self.device)
        seed = self.config.train.seed
        planes, labels = self._load(self.train, positions)
        sample_ids = [self.train.sample_ids[p] for p in positions]
        changed = augment(planes, sample_ids, epoch, seed, self.config.augment)
        self.network.zero_grad(set_to_none=True)
        torch.manual_seed(derive(seed, "dropout", epoch, step, number))
        logits = self.network(normalise(changed))
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        (loss_sum / size).backward()
        correct = (logits.argmax(1) == labels).sum()
        return exact.pack(self.network, statistics, len(positions) / size, [loss_sum, correct])

    def _load(self, side: Side, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        planes = torch.from_numpy(side.planes.take(positions)).to(self.device)
        return planes, torch.from_numpy(side.labels[positions]).to(self.device)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean loss and accuracy over the validation samples, exact whatever the worker count.

        Each sample's figures have a slot of their own; adding the other workers' zeros changes no bit.
        """
        self.network.eval()
        count, settings = len(self.val.sample_ids), self.config.train
        slots = torch.zeros(2, count, device=self.device)
        for batch in batches(np.arange(count), settings.batch_size, settings.micro_batches):
            for positions in (batch[m] for m in self._share(batch)):
                if len(positions):
                    slots[:, positions] = self._losses(positions)
        losses, right = exact.sum_over_workers(slots.reshape(-1)).view(2, count).double().cpu()
        return {"val_loss": float(losses.sum() / count), "val_accuracy": float(right.sum() / count)}

    def _losses(self, positions: np.ndarray) -> Tensor:
        planes, labels = self._load(self.val, positions)
        logits = self.network(normalise(planes))
        return torch.stack([F.cross_entropy(logits, labels, reduction="none"), (logits.argmax(1) == labels).float()])


def make_optimizer(network: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """Adam (weight decay in the gradient) or AdamW (decoupled); the rate is set at each step."""
    kind: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, steps_in_epoch: int, settings: TrainConfig) -> float:
    """Linear warm-up from `warmup_start`, then half a cosine down to 0 at the last epoch's end.

    The warm-up takes at most a fifth of the run, so that a short one reaches its rate too.

    Args:
        step: from 0, over the whole run.
        steps_in_epoch: batches in an epoch.
        settings: rates and epochs.
    """
    epochs_done = step / steps_in_epoch
    warmup = min(settings.warmup_epochs, settings.epochs / 5)
    if epochs_done < warmup:
        rise = settings.learning_rate - settings.warmup_start
        return settings.warmup_start + rise * epochs_done / warmup
    share = (epochs_done - warmup) / (settings.epochs - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def write_history(history: list[dict[str, Any]], run: Path) -> None:
    """Write history.parquet aside and rename it."""
    aside = run / f".history.{os.getpid()}.tmp"
    pq.write_table(pa.Table.from_pylist(history, schema=HISTORY), aside)
    aside.replace(run / "history.parquet")


def read_history(run: Path) -> Iterator[dict[str, Any]]:
    """The finished epochs of a run, none before the first."""
    path = run / "history.parquet"
    if path.exists():
        yield from pq.read_table(path).to_pylist()
