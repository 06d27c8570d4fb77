"""The exact step: one optimiser step or one validation, with the same bits for any number of workers.

Nothing depends on how the workers share a batch. Each micro-batch has its own dropout seed and its own batch-norm
statistics, the vectors of the micro-batches are summed in a fixed tree, and the loss of each sample has its own element
in them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from brainscale.config.sections import AugmentConfig, TrainConfig
from brainscale.errors import TrainError
from brainscale.models.normalisation import normalisation_constants, normalise
from brainscale.seeds import derive
from brainscale.training import exact_sum
from brainscale.training.augment import augment, draw_mixture
from brainscale.training.norm_statistics import MAX_SAMPLES, measure_norm_statistics
from brainscale.training.sampler import Batch, cut_into_windows, epoch_order, own_positions, own_share
from brainscale.training.upload import Uploader

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
SAMPLES_IN_ERROR = 3
"""Maximum number of sample ids in an error message."""


class Planes(Protocol):
    """Random access to planes by position."""

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the planes at these positions, uint8 [len(positions), S, S]."""

    def hold(self, positions: np.ndarray, following: np.ndarray | None = None) -> None:
        """Keep the planes at these positions in memory, release all others, and fetch the following ones meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Training or validation samples.

    Attributes:
        sample_ids: the n sample ids, sorted.
        labels: int64 [n], class indices.
        planes: the n planes.
    """

    sample_ids: Sequence[str]
    labels: np.ndarray
    planes: Planes


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Losses and correctness of samples.

    Attributes:
        losses: float32 [n], in the order of the samples.
        is_correct: bool [n], whether each sample was classified correctly.
    """

    losses: np.ndarray
    is_correct: np.ndarray

    @property
    def loss_sum(self) -> float:
        """Sum of the losses, rounded once."""
        return math.fsum(self.losses.tolist())

    @property
    def correct(self) -> int:
        """Number of samples classified correctly."""
        return int(self.is_correct.sum())


class Learner:
    """A network and its optimiser on one worker; they stay bit-identical on all workers.

    Args:
        network: network to train; it is moved to the device.
        settings: settings of the optimiser and the batches.
        augmentation: random changes to the training planes.
        device: device to train on.
    """

    def __init__(
        self, network: nn.Module, settings: TrainConfig, augmentation: AugmentConfig, device: torch.device
    ) -> None:
        self.layout = LAYOUTS[choose_memory_format(settings, device.type == "cuda")]
        self.network = network.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, settings)
        self.average = make_average(self.network, settings)
        self.settings, self.augmentation, self.device = settings, augmentation, device
        self.upload, self.constants = Uploader(device), normalisation_constants(device)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the moving average of the weights, if there is one."""
        return self.network if self.average is None else self.average.module

    def step(self, samples: Samples, batch: Batch, epoch: int, step: int, rate: float) -> Outcome:
        """Take one optimiser step on a batch that all workers share.

        Args:
            samples: the training samples.
            batch: positions of the samples in each micro-batch; this worker computes its share.
            epoch: number of the epoch, from 1.
            step: number of the step in the epoch, from 0.
            rate: learning rate.

        Returns:
            The outcome of the whole batch, on every worker.

        Raises:
            TrainError: a loss or a gradient is not finite; the network is as it was before the step.
        """
        self.network.train()
        ends = np.cumsum([len(positions) for positions in batch]).tolist()
        size = ends[-1]
        with exact_sum.micro_batch_statistics(self.network) as statistics:
            local = exact_sum.tree_sum(
                self._micro_batch(samples, batch[m], (ends[m] - len(batch[m]), size), (epoch, step, m), statistics)
                for m in own_share(batch, *exact_sum.rank_and_world_size())
            )
        vector = exact_sum.sum_over_workers(local)
        outcomes = torch.cat([vector[-2 * size :], vector.isfinite().all().float().reshape(1)]).cpu().numpy()
        if not outcomes[-1]:
            _raise_not_finite(samples, np.concatenate(batch), outcomes[:size], f"epoch {epoch}, step {step + 1}")
        exact_sum.unpack(self.network, vector)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return Outcome(losses=outcomes[:size], is_correct=outcomes[size:-1] > 0)

    def _micro_batch(
        self,
        samples: Samples,
        positions: np.ndarray,
        start_and_size: tuple[int, int],
        seed_numbers: tuple[int, int, int],
        statistics: list[Tensor],
    ) -> Tensor:
        """Run one micro-batch forward and backward and return its packed vector; zeros for an empty one.

        With mixup, a sample counts as classified correctly if the label of its larger share is predicted.

        Args:
            samples: the training samples.
            positions: positions of the samples in this micro-batch.
            start_and_size: where the micro-batch starts in the batch, and the size of the batch.
            seed_numbers: epoch, step and micro-batch, from which the seeds of dropout and mixup are derived.
            statistics: buffers of batch norm.
        """
        start, size = start_and_size
        if len(positions) == 0:
            return torch.zeros(exact_sum.packed_length(self.network, 2 * size), device=self.device)
        seed = self.settings.seed
        planes, labels = self._load(samples, positions)
        sample_ids = [samples.sample_ids[p] for p in positions]
        augmented = augment(planes, sample_ids, seed_numbers[0], seed, self.augmentation, self.upload)
        partners, share = None, 1.0
        if self.augmentation.mixup:
            order, share = draw_mixture(len(positions), derive(seed, "mixup", *seed_numbers), self.augmentation.mixup)
            partners = self.upload(order)
            augmented = share * augmented + (1 - share) * augmented[partners]
        self.network.zero_grad(set_to_none=True)
        torch.manual_seed(derive(seed, "dropout", *seed_numbers))
        logits = self._forward(self.network, augmented)
        losses, is_correct = _judge(logits, labels, self.settings.label_smoothing)
        if partners is not None:
            others, _ = _judge(logits, labels[partners], self.settings.label_smoothing)
            losses = share * losses + (1 - share) * others
        (losses.sum() / size).backward()
        outcomes = torch.zeros(2, size, device=self.device)
        outcomes[:, start : start + len(positions)] = torch.stack([losses.detach(), is_correct])
        return exact_sum.pack(self.network, statistics, len(positions) / size, [outcomes])

    def measure_norm_statistics(self, samples: Samples, epoch: int) -> None:
        """Give the evaluated network batch norm's statistics of an epoch's images, seen once more without learning.

        Args:
            samples: the training samples; up to `norm_statistics.MAX_SAMPLES` of them are used.
            epoch: number of the epoch, from 1, whose order and augmentation they have.
        """
        settings = self.settings
        order = epoch_order(len(samples.sample_ids), settings.seed, epoch, settings.window)[:MAX_SAMPLES]
        windows = cut_into_windows(order, settings.window, settings.batch_size, settings.micro_batches)

        def run(positions: np.ndarray) -> None:
            planes, _ = self._load(samples, positions)
            sample_ids = [samples.sample_ids[p] for p in positions]
            augmented = augment(planes, sample_ids, epoch, settings.seed, self.augmentation, self.upload)
            self._forward(self.evaluated, augmented)

        measure_norm_statistics(self.evaluated, hold_windows(samples.planes, windows), len(order), run)

    def _load(self, samples: Samples, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return planes and labels at these positions, on the device."""
        return self.upload(samples.planes.take(positions)), self.upload(samples.labels[positions])

    def _forward(self, network: nn.Module, planes: Tensor) -> Tensor:
        """Return the logits, float32 [n, classes], of planes in 0..255."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits: Tensor = network(normalise(planes, self.constants).contiguous(memory_format=self.layout))
        return logits.float()

    @torch.no_grad()
    def validate(self, samples: Samples) -> Outcome:
        """Return the outcome of all samples, on every worker.

        Each sample has its own element in the sum over workers, where the other workers add 0, which changes no bit.
        """
        network = self.evaluated.eval()
        count = len(samples.sample_ids)
        outcomes = torch.zeros(2, count, device=self.device)
        settings = self.settings
        windows = cut_into_windows(np.arange(count), settings.window, settings.batch_size, settings.micro_batches)
        for batch in hold_windows(samples.planes, windows):
            for positions in (batch[m] for m in own_share(batch, *exact_sum.rank_and_world_size())):
                if len(positions):
                    planes, labels = self._load(samples, positions)
                    outcomes[:, positions] = torch.stack(_judge(self._forward(network, planes), labels))
        losses, is_correct = exact_sum.sum_over_workers(outcomes.reshape(-1)).view(2, count).cpu().numpy()
        return Outcome(losses=losses, is_correct=is_correct > 0)


def _judge(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return losses and correctness (0 or 1), float32 [n] each."""
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return losses, (logits.argmax(1) == labels).float()


def hold_windows(planes: Planes, windows: Iterable[list[Batch]]) -> Iterator[Batch]:
    """Yield the batches of all windows, while this worker's planes of their window are in memory."""
    share = exact_sum.rank_and_world_size()
    owned = ((batches, own_positions(batches, *share)) for batches in windows)
    window = next(owned, None)
    while window is not None:
        following = next(owned, None)
        planes.hold(window[1], None if following is None else following[1])
        yield from window[0]
        window = following


def _raise_not_finite(samples: Samples, positions: np.ndarray, losses: np.ndarray, where: str) -> None:
    ids = [samples.sample_ids[p] for p in positions[~np.isfinite(losses)]]
    if not ids:
        raise TrainError(f"a gradient is not finite at {where}, although every loss is: lower train.learning_rate")
    more = f" and {len(ids) - SAMPLES_IN_ERROR} more" if len(ids) > SAMPLES_IN_ERROR else ""
    raise TrainError(
        f"the loss is not finite at {where}, for {', '.join(map(repr, ids[:SAMPLES_IN_ERROR]))}{more}: "
        "lower train.learning_rate, or check these samples"
    )


def make_optimizer(network: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """Return Adam (weight decay in the gradient) or AdamW (decoupled); each step sets its own learning rate."""
    kind: type[torch.optim.Adam] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    parameters = list(network.parameters())
    on_gpu = all(parameter.is_cuda for parameter in parameters)
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not settings.decay_biases:
        matrices = [parameter for parameter in parameters if parameter.dim() > 1]
        vectors = [parameter for parameter in parameters if parameter.dim() <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return kind(
        groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        foreach=not on_gpu,  # all parameters in one operation: the bits of one after the other, less work for Python
        fused=on_gpu,
    )


def make_average(network: nn.Module, settings: TrainConfig) -> AveragedModel | None:
    """Return the exponential moving average of the weights and of batch norm's statistics, or None without one.

    The first step copies the weights. Each later step moves the average by `1 − ema` of the way to the new weights.
    """
    if not settings.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)


def choose_memory_format(settings: TrainConfig, on_gpu: bool) -> str:
    """Return the memory format, with `auto` replaced by what is fast here: channels last on a GPU and with AVX-512.

    Args:
        settings: settings of the training.
        on_gpu: whether the run trains on GPUs.
    """
    if settings.memory_format != "auto":
        return settings.memory_format
    fast = on_gpu or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return "channels_last" if fast else "contiguous"


def learning_rate(step: int, steps_in_epoch: int, settings: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to 0 at the end of the last epoch.

    The warm-up starts at `warmup_start` and takes at most a fifth of the run, so that short runs reach the full
    learning rate too.

    Args:
        step: number of the step in the run, from 0.
        steps_in_epoch: number of steps in an epoch.
        settings: learning rates and number of epochs.
    """
    epochs_done = step / steps_in_epoch
    warmup = min(settings.warmup_epochs, settings.epochs / 5)
    if epochs_done < warmup:
        rise = settings.learning_rate - settings.warmup_start
        return settings.warmup_start + rise * epochs_done / warmup
    fraction = (epochs_done - warmup) / (settings.epochs - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * fraction))
