"""Measure batch norm's statistics for the weights that are kept ("precise batch norm").

Running statistics are averages over earlier steps, whose weights were different. With a small momentum, or with a
moving average of the weights, they do not fit the kept weights, and probabilities come out too high or too low.
Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, arXiv:2105.07576, 2021.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from brainscale.errors import TrainError
from brainscale.training import exact_sum
from brainscale.training.sampler import Batch, own_share

MAX_SAMPLES = 10_000
"""Most images that are used."""


@torch.no_grad()
def measure_norm_statistics(
    network: nn.Module, batches: Iterable[Batch], count: int, run: Callable[[np.ndarray], object]
) -> None:
    """Replace the running statistics of batch norm by the mean of those of the micro-batches, weighted by their size.

    The variances are the mean of those of the micro-batches, as in running statistics, not pooled as in the source. The
    bits are the same for any number of workers. Dropout is off.

    Args:
        network: the network, the same on all workers; its batch norms are left in training mode.
        batches: the batches.
        count: number of samples in all of them.
        run: runs the network on the images at some positions.

    Raises:
        TrainError: a mean or variance is not finite; the network is as it was.
    """
    buffers = exact_sum.running_buffers(network)
    if not buffers:
        return
    sizes = [len(buffer) for buffer in buffers]
    total = buffers[0].new_zeros(sum(sizes))
    with exact_sum.micro_batch_statistics(network) as latest:
        exact_sum.train_batch_norms(network)
        for batch in batches:
            shares = (_statistics(batch[m], latest, run) for m in own_share(batch, *exact_sum.rank_and_world_size()))
            total += exact_sum.sum_over_workers(exact_sum.tree_sum(shares))
    if not total.isfinite().all():
        raise TrainError("a statistic of batch norm is not finite: lower train.learning_rate")
    torch._foreach_copy_(buffers, (total / count).split(sizes))


def _statistics(positions: np.ndarray, latest: list[Tensor], run: Callable[[np.ndarray], object]) -> Tensor:
    """Return batch norm's statistics of a micro-batch times its number of samples; zeros for an empty one."""
    torch._foreach_zero_(latest)  # of a statistic that is not finite, a part would stay
    if len(positions):
        run(positions)
    return torch.cat(latest) * len(positions)
