"""Choose the number and size of workers that nobody specified. This never changes what they compute."""

from collections.abc import Sequence
from dataclasses import dataclass

ALL = 1024
"""Stands for all CPUs of a node: an engine never uses more threads than its node has CPUs."""
NEARLY_ALL = 0.9
"""Share of all CPUs that engines must use. Fewer, larger engines are preferred, since each one loads the model."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of one size.

    Attributes:
        count: number of nodes.
        cpus: CPUs of each node.
    """

    count: int
    cpus: int


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Engines that score, and their CPUs.

    Attributes:
        workers: maximum number of engines that run at the same time.
        threads: number of threads of each engine.
        cpus: CPUs that Ray reserves for each engine: enough that no further engine fits on the node, and few enough
            that some are left for reading.
    """

    workers: int
    threads: int
    cpus: float


def plan_engines(
    nodes: Sequence[Nodes], *, workers: int | None = None, cpus: int | None = None, blocks: int = 1
) -> Engines:
    """Return the engines that fit on CPU nodes: one for each node, unless more are asked for.

    Args:
        nodes: nodes of the cluster.
        workers: number of engines; None for as many as the nodes can hold and the work needs.
        cpus: CPUs of each engine; None for what fits.
        blocks: number of blocks of work, which limits the number of engines.
    """
    if not any(size.cpus for size in nodes):  # an autoscaler will add nodes of unknown size
        alone = workers in (None, 1)
        reserved = 1.0 if cpus is None else max(0.9, cpus - 0.5)  # the rest of a node of that size is for reading
        return Engines(workers=workers or 1, threads=cpus or (ALL if alone else 1), cpus=reserved)
    threads = cpus or _threads(nodes, workers)
    large_enough = [size for size in nodes if size.cpus >= threads]
    reserved = max((_reserved_cpus(size.cpus, threads) for size in large_enough), default=float(threads))
    count = workers or max(1, min(_engine_count(nodes, threads), blocks))
    return Engines(workers=count, threads=threads, cpus=1.0 if count == 1 and large_enough else reserved)


def _threads(nodes: Sequence[Nodes], workers: int | None) -> int:
    """Return the threads of each engine: those of the largest node size that leaves few CPUs unused.

    If a number of workers is given, return the largest number of threads with which so many engines fit.
    """
    sizes = sorted({size.cpus for size in nodes if size.cpus}, reverse=True) or [1]
    if workers is not None:
        return next((n for n in range(sizes[0], 1, -1) if _engine_count(nodes, n) >= workers), 1)
    used = {threads: threads * _engine_count(nodes, threads) for threads in sizes}
    return next(threads for threads in sizes if used[threads] >= NEARLY_ALL * max(used.values()))


def _engine_count(nodes: Sequence[Nodes], threads: int) -> int:
    """Return the number of engines that fit on the nodes."""
    return sum(size.count * (size.cpus // threads) for size in nodes)


def _reserved_cpus(cpus: int, threads: int) -> float:
    """Return the CPUs to reserve for each engine, so that no further engine fits on the node; the rest is for reading.

    Otherwise, when a node is lost, its engines would fill the other nodes and wait there for reading that has no CPU.
    """
    return round(cpus / (cpus // threads + 1) + 0.001, 3)


def count_trainers(nodes: Sequence[Nodes], gpus: int, micro_batches: int) -> int:
    """Return the number of training workers: one for each GPU or, without GPUs, one for each node.

    The number is rounded down to a power of two, so that the workers can share a batch evenly.

    Args:
        nodes: nodes of the cluster.
        gpus: GPUs of all nodes; 0 if the run does not use GPUs.
        micro_batches: number of micro-batches in a batch, a power of two.
    """
    largest = gpus or sum(size.count for size in nodes if size.cpus)
    return min(micro_batches, 1 << max(0, largest.bit_length() - 1))
