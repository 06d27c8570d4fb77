"""The exact step: what one worker does with a batch, and what all of them agree on after it.

Nothing here depends on how many workers share a batch: micro-batches have their own seeds and batch-norm
statistics, their vectors are summed in one fixed tree, and every sample's loss has a place of its own in them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainscale.config.sections import AugmentConfig, TrainConfig
from brainscale.errors import TrainError
from brainscale.models.normalisation import normalise
from brainscale.seeds import derive
from brainscale.training import exact_sum
from brainscale.training.augment import augment
from brainscale.training.sampler import Batch, cut

NAMED = 3
"""Samples that an error names."""


class Planes(Protocol):
    """Random access to planes by position."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """uint8 [len(positions), S, S]."""

    def hold(self, positions: np.ndarray) -> None:
        """Keep these in reach and let go of all others."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Training or validation samples, in the order of their ids.

    Attributes:
        sample_ids: the keys.
        labels: int64 [n], class indices.
        planes: by position.
    """

    sample_ids: Sequence[str]
    labels: np.ndarray
    planes: Planes


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a pass over samples gave.

    Attributes:
        losses: float32 [n], in the order of the samples.
        right: bool [n].
    """

    losses: np.ndarray
    right: np.ndarray

    @property
    def loss_sum(self) -> float:
        """Sum of the losses, rounded once."""
        return math.fsum(self.losses.tolist())

    @property
    def correct(self) -> int:
        """Right answers."""
        return int(self.right.sum())


class Learner:
    """A network and its optimiser, on one worker of a group; every worker's stay bit-equal.

    Args:
        network: as initialised or read; moved to the device.
        settings: of the optimisation.
        changes: of the training planes.
        device: where the network lives.
    """

    def __init__(self, network: nn.Module, settings: TrainConfig, changes: AugmentConfig, device: torch.device) -> None:
        # on CUDA, tensor cores want channels last; on a CPU it measured no faster (docs/performance.md)
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.network = network.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, settings)
        self.settings, self.changes, self.device = settings, changes, device

    def step(self, samples: Samples, batch: Batch, epoch: int, step: int, rate: float) -> Outcome:
        """One optimiser step on a global batch.

        Args:
            samples: to learn from.
            batch: positions of each of its micro-batches; this worker takes its share.
            epoch: from 1.
            step: within the epoch, from 0.
            rate: learning rate.

        Returns:
            The whole batch's, on every worker.

        Raises:
            TrainError: a loss or a gradient is not finite; the network is as before the step.
        """
        self.network.train()
        ends = np.cumsum([len(part) for part in batch]).tolist()
        with exact_sum.micro_batch_statistics(self.network) as statistics:
            local = exact_sum.tree_sum(
                self._micro_batch(samples, batch[m], (ends[m] - len(batch[m]), ends[-1]), (epoch, step, m), statistics)
                for m in self._share(batch)
            )
        vector = exact_sum.sum_over_workers(local)
        figures = torch.cat([vector[-2 * ends[-1] :], vector.isfinite().all().float().reshape(1)]).cpu().numpy()
        if not figures[-1]:
            _refuse(samples, np.concatenate(batch), figures[: ends[-1]], f"epoch {epoch}, step {step + 1}")
        exact_sum.unpack(self.network, vector)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return Outcome(losses=figures[: ends[-1]], right=figures[ends[-1] : -1] > 0)

    def _share(self, batch: Batch) -> range:
        """Numbers of the micro-batches that are this worker's."""
        rank, world = exact_sum.rank_and_world()
        each = len(batch) // world
        return range(rank * each, (rank + 1) * each)

    def _micro_batch(
        self,
        samples: Samples,
        positions: np.ndarray,
        place: tuple[int, int],
        number: tuple[int, int, int],
        statistics: list[Tensor],
    ) -> Tensor:
        """Forward and backward of one micro-batch → its vector; an empty one gives zeros.

        Args:
            samples: to learn from.
            positions: of this micro-batch.
            place: where it starts in the batch, and the batch's size.
            number: epoch, step and micro-batch: what its dropout is drawn from.
            statistics: batch norm's buffers.
        """
        start, size = place
        if len(positions) == 0:
            return torch.zeros(exact_sum.packed_length(self.network, 2 * size), device=self.device)
        seed = self.settings.seed
        planes, labels = self._load(samples, positions)
        sample_ids = [samples.sample_ids[p] for p in positions]
        changed = augment(planes, sample_ids, number[0], seed, self.changes)
        self.network.zero_grad(set_to_none=True)
        torch.manual_seed(derive(seed, "dropout", *number))
        losses, right = self._forward(changed, labels)
        (losses.sum() / size).backward()
        slots = torch.zeros(2, size, device=self.device)
        slots[:, start : start + len(positions)] = torch.stack([losses.detach(), right])
        return exact_sum.pack(self.network, statistics, len(positions) / size, [slots])

    def _load(self, samples: Samples, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        planes = torch.from_numpy(samples.planes.take(positions)).to(self.device)
        return planes, torch.from_numpy(samples.labels[positions]).to(self.device)

    def _forward(self, planes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Planes in 0..255 → losses and right answers, float32 [n] each."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits = self.network(normalise(planes).contiguous(memory_format=self.layout))
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        return losses, (logits.argmax(1) == labels).float()

    @torch.no_grad()
    def validate(self, samples: Samples) -> Outcome:
        """Every sample's loss, on every worker, whatever their number.

        Each sample's figures have a slot of their own; adding the other workers' zeros changes no bit.
        """
        self.network.eval()
        count = len(samples.sample_ids)
        slots = torch.zeros(2, count, device=self.device)
        settings = self.settings
        plan = cut(np.arange(count), settings.window, settings.batch_size, settings.micro_batches)
        for window, batch in plan:
            samples.planes.hold(window)
            for positions in (batch[m] for m in self._share(batch)):
                if len(positions):
                    slots[:, positions] = torch.stack(self._forward(*self._load(samples, positions)))
        losses, right = exact_sum.sum_over_workers(slots.reshape(-1)).view(2, count).cpu().numpy()
        return Outcome(losses=losses, right=right > 0)


def _refuse(samples: Samples, positions: np.ndarray, losses: np.ndarray, where: str) -> None:
    bad = [samples.sample_ids[p] for p in positions[~np.isfinite(losses)]]
    if not bad:
        raise TrainError(f"a gradient is not finite at {where}, though every loss is: lower train.learning_rate")
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    raise TrainError(
        f"the loss is not finite at {where}, for {', '.join(map(repr, bad[:NAMED]))}{more}: "
        "lower train.learning_rate, or look at these samples"
    )


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
