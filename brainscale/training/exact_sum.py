"""Gradients averaged in one fixed tree, so that the worker count does not change a bit.

Floating-point sums depend on their order. Here the order is a complete binary tree over a batch's
micro-batches: a worker sums its own contiguous share, a subtree, and the workers' results are summed as the
levels above. What travels is one flat vector: gradients, batch-norm statistics and figures together.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def tree_sum(vectors: Iterable[Tensor]) -> Tensor:
    """Sum a power of two of equal vectors pairwise; memory for only log2 of them. Changes its inputs."""
    pending: list[tuple[int, Tensor]] = []
    for vector in vectors:
        level, total = 0, vector
        while pending and pending[-1][0] == level:
            total = pending.pop()[1].add_(total)
            level += 1
        pending.append((level, total))
    if len(pending) != 1:
        raise ValueError("tree_sum needs a power of two of vectors, one at least")
    return pending[0][1]


def sum_over_workers(vector: Tensor) -> Tensor:
    """The tree sum of every worker's vector, on every worker.

    Each worker sums one chunk (all-to-all, tree, all-gather): the traffic of an all-reduce.

    Args:
        vector: one-dimensional, of the same length everywhere.
    """
    _, world = rank_and_world()
    if world == 1:
        return vector
    chunk = -(-len(vector) // world)
    padded = vector.new_zeros(chunk * world)
    padded[: len(vector)] = vector
    received = torch.empty_like(padded)
    dist.all_to_all_single(received, padded)
    total = tree_sum(received.split(chunk)).clone()
    dist.all_gather(list(padded.split(chunk)), total)
    return padded[: len(vector)]


def rank_and_world() -> tuple[int, int]:
    """This worker's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def same_everywhere(numbers: Tensor) -> bool:
    """Whether every worker holds the same numbers.

    Args:
        numbers: one-dimensional, of the same length everywhere.
    """
    _, world = rank_and_world()
    if world == 1:
        return True
    everyones = [torch.empty_like(numbers) for _ in range(world)]
    dist.all_gather(everyones, numbers)
    return all(torch.equal(theirs, numbers) for theirs in everyones)


@contextmanager
def micro_batch_statistics(network: nn.Module) -> Iterator[list[Tensor]]:
    """Let batch norm's running buffers hold the latest micro-batch's own statistics, for the with-block.

    Yields:
        These buffers, to read after each forward pass. At the end they are as they were before.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    buffers = running_buffers(network)
    before = [b.clone() for b in buffers]
    momenta = [layer.momentum for layer in layers]
    counts = [layer.num_batches_tracked.clone() for layer in layers if layer.num_batches_tracked is not None]
    for layer in layers:
        layer.momentum = 1.0
    try:
        yield buffers
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = count
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


def running_buffers(network: nn.Module) -> list[Tensor]:
    """Running mean and variance of each batch norm, in the network's order."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    return [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]


def pack(network: nn.Module, statistics: Sequence[Tensor], weight: float, figures: Sequence[Tensor]) -> Tensor:
    """Gradients, weighted statistics and figures as one vector, on the gradients' device."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters()]
    scaled = [s * weight for s in statistics]
    return torch.cat([t.detach().reshape(-1).float() for t in (*gradients, *scaled, *figures)])


def unpack(network: nn.Module, vector: Tensor) -> None:
    """Put a summed vector's gradients on the parameters and move the running statistics."""
    at = 0
    for parameter in network.parameters():
        parameter.grad = vector[at : at + parameter.numel()].view_as(parameter).to(parameter.dtype)
        at += parameter.numel()
    for layer in (m for m in network.modules() if isinstance(m, _BatchNorm)):
        for buffer in (layer.running_mean, layer.running_var):
            if buffer is not None:
                buffer.lerp_(vector[at : at + buffer.numel()].view_as(buffer), float(layer.momentum or 0.0))
                at += buffer.numel()
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked += 1


def packed_length(network: nn.Module, figures: int) -> int:
    """Elements of what `pack` returns."""
    tensors = [*network.parameters(), *running_buffers(network)]
    return sum(t.numel() for t in tensors) + figures
