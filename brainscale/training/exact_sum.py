"""Sum gradients in a fixed order, so that the number of workers does not change a single bit.

The result of a floating-point sum depends on the order of its terms. Here the order is that of a complete binary tree
over the micro-batches of a batch. Each worker sums its own consecutive micro-batches, which form a subtree; the sums of
the workers form the levels above. Gradients, batch-norm statistics and per-sample outcomes travel as one flat vector.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from brainscale.errors import first_line


class PeerError(Exception):
    """Another worker did not answer: it failed, hangs, or cannot be reached."""


@contextmanager
def _errors_of_peers() -> Iterator[None]:
    """Raise PeerError for what torch.distributed raises during the with-block."""
    try:
        yield
    except RuntimeError as error:  # DistBackendError and DistNetworkError too
        if isinstance(error, torch.OutOfMemoryError):
            raise
        timed_out = "timed out" in str(error).lower() or "timeout" in str(error).lower()
        what = "did not answer in time (resources.collective_seconds)" if timed_out else "ended, or cannot be reached"
        raise PeerError(f"another worker {what}: {first_line(error)}") from None


@dataclass(frozen=True, kw_only=True)
class Group:
    """The workers of one machine that train together without Ray, as one of them sees it.

    Attributes:
        rank: number of this worker, from 0.
        workers: number of workers.
        store: path of a file through which they find each other.
    """

    rank: int
    workers: int
    store: str


@contextmanager
def joined(group: Group, seconds: float) -> Iterator[None]:
    """Be one of the workers of a group during the with-block; one alone joins nobody.

    Args:
        group: the group.
        seconds: maximum time that a worker waits for another one.

    Raises:
        PeerError: another worker did not answer.
    """
    if group.workers == 1:
        yield
        return
    with _errors_of_peers():
        store = dist.FileStore(group.store, group.workers)  # type: ignore[attr-defined]  # documented, not exported
        dist.init_process_group(
            "gloo", store=store, rank=group.rank, world_size=group.workers, timeout=timedelta(seconds=seconds)
        )
    try:
        yield
    finally:
        dist.destroy_process_group()


def tree_sum(vectors: Iterable[Tensor]) -> Tensor:
    """Sum vectors pairwise in a binary tree; n vectors take the memory of log2(n). The inputs are overwritten.

    Raises:
        ValueError: the number of vectors is not a power of two.
    """
    pending: list[tuple[int, Tensor]] = []
    for vector in vectors:
        level, total = 0, vector
        while pending and pending[-1][0] == level:
            total = pending.pop()[1].add_(total)
            level += 1
        pending.append((level, total))
    if len(pending) != 1:
        raise ValueError("the number of vectors must be a power of two")
    return pending[0][1]


def sum_over_workers(vector: Tensor) -> Tensor:
    """Return the tree sum of the vectors of all workers, on every worker.

    Each worker sums one chunk (all-to-all, tree sum, all-gather), which moves as much data as an all-reduce.

    Args:
        vector: one-dimensional, with the same length on all workers.

    Raises:
        PeerError: another worker did not answer.
    """
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return vector
    if _travels_through_memory(vector):
        return sum_over_workers(vector.cpu()).to(vector.device)
    chunk = -(-len(vector) // world_size)
    padded = vector.new_zeros(chunk * world_size)
    padded[: len(vector)] = vector
    received = torch.empty_like(padded)
    with _errors_of_peers():
        dist.all_to_all_single(received, padded)
    total = tree_sum(received.split(chunk)).clone()
    with _errors_of_peers():
        dist.all_gather(list(padded.split(chunk)), total)
    return padded[: len(vector)]


def choose_backend(on_gpu: bool, gpus_per_worker: float) -> str:
    """Return how workers talk: by NCCL if each has a GPU, else by gloo; NCCL refuses two workers on one GPU.

    Args:
        on_gpu: whether the workers train on GPUs.
        gpus_per_worker: GPUs of each worker.
    """
    return "nccl" if on_gpu and gpus_per_worker >= 1 else "gloo"


def _travels_through_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is on a GPU, where gloo cannot fetch it; a sum has the same bits on the CPU."""
    return tensor.is_cuda and dist.get_backend() == "gloo"


def rank_and_world_size() -> tuple[int, int]:
    """Return the number of this worker, from 0, and the number of workers."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_equal_on_all_workers(numbers: Tensor) -> bool:
    """Return whether all workers have the same numbers.

    Args:
        numbers: one-dimensional, with the same length on all workers.
    """
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return True
    if _travels_through_memory(numbers):
        numbers = numbers.cpu()
    gathered = [torch.empty_like(numbers) for _ in range(world_size)]
    with _errors_of_peers():
        dist.all_gather(gathered, numbers)
    return all(torch.equal(other, numbers) for other in gathered)


@contextmanager
def micro_batch_statistics(network: nn.Module) -> Iterator[list[Tensor]]:
    """Make the running buffers of batch norm hold the statistics of the latest micro-batch, during the with-block.

    Yields:
        The buffers, to be read after each forward pass. They get their earlier values back at the end.
    """
    layers, buffers = _batch_norms(network), running_buffers(network)
    earlier = torch.cat(buffers) if buffers else None
    momenta, counters = [layer.momentum for layer in layers], [layer.num_batches_tracked for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 1.0, None  # nobody counts these micro-batches
    try:
        yield buffers
    finally:
        for layer, momentum, counter in zip(layers, momenta, counters, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, counter
        if earlier is not None:
            torch._foreach_copy_(buffers, earlier.split([len(b) for b in buffers]))


def train_batch_norms(network: nn.Module) -> None:
    """Let batch norm use and keep the statistics of each micro-batch, while dropout stays off."""
    network.eval()
    for layer in _batch_norms(network):
        layer.train()


def running_buffers(network: nn.Module) -> list[Tensor]:
    """Return running mean and variance of each batch norm, in the order of the network's modules."""
    layers = _batch_norms(network)
    return [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def pack(network: nn.Module, statistics: Sequence[Tensor], weight: float, outcomes: Sequence[Tensor]) -> Tensor:
    """Return gradients, batch-norm statistics times `weight`, and per-sample outcomes as one vector.

    A gradient has the order of its parameter's memory, so that `unpack` needs no copy.
    """
    gradients = [_flatten_gradient(parameter) for parameter in network.parameters()]
    weighted = torch._foreach_mul(list(statistics), weight) if statistics else ()
    return torch.cat([*gradients, *weighted, *(t.detach().reshape(-1) for t in outcomes)])


def _flatten_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter, float32 [n], in the order of the parameter's memory."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros(parameter.numel(), device=parameter.device)
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    flat = gradient.as_strided((parameter.numel(),), (1,))
    return flat if flat.dtype == torch.float32 else flat.float()


def unpack(network: nn.Module, vector: Tensor) -> None:
    """Set the gradients of the parameters from a summed vector, and update the running statistics.

    Each gradient has the strides of its parameter, without which an optimiser computes them one by one.
    """
    start = 0
    for parameter in network.parameters():
        gradient = vector.as_strided(parameter.shape, parameter.stride(), start)
        parameter.grad = gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)
        start += parameter.numel()
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for layer in _batch_norms(network):
        buffers, values = by_momentum.setdefault(float(layer.momentum or 0.0), ([], []))
        for buffer in (layer.running_mean, layer.running_var):
            if buffer is not None:
                buffers.append(buffer)
                values.append(vector.as_strided(buffer.shape, buffer.stride(), start))
                start += buffer.numel()
    for momentum, (buffers, values) in by_momentum.items():
        torch._foreach_lerp_(buffers, values, momentum)
    counters = [layer.num_batches_tracked for layer in _batch_norms(network) if layer.num_batches_tracked is not None]
    if counters:
        torch._foreach_add_(counters, 1)


def packed_length(network: nn.Module, outcomes: int) -> int:
    """Return the length of the vector that `pack` returns, for a number of per-sample outcomes."""
    tensors = [*network.parameters(), *running_buffers(network)]
    return sum(t.numel() for t in tensors) + outcomes
