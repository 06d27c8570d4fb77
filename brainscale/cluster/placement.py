"""How many workers there are and how large, where nobody says. Never what they compute."""

from collections.abc import Sequence
from dataclasses import dataclass

ALL = 1024
"""More threads than a node has CPUs: an engine takes those of its node at most."""
NEARLY_ALL = 0.9
"""Share of the CPUs that engines may leave unused for being larger, and so fewer: each loads the model."""


@dataclass(frozen=True)
class Nodes:
    """Nodes of one size: how many, and CPUs of each."""

    count: int
    cpus: int


@dataclass(frozen=True, kw_only=True)
class Engines:
    """How scoring is spread over CPUs.

    Attributes:
        workers: engines side by side at most.
        threads: that each computes on.
        cpus: that Ray sets aside for each: so many that a node has no place for one more, and always some for reading.
    """

    workers: int
    threads: int
    cpus: float


def engines(nodes: Sequence[Nodes], *, workers: int | None = None, cpus: int | None = None, blocks: int = 1) -> Engines:
    """Engines on CPUs: as many as there is room for, each on a node of its own unless more are asked for.

    Args:
        nodes: that are there.
        workers: as asked for; without it, all that there is room and work for.
        cpus: of each, as asked for.
        blocks: of work; more engines than that would have nothing to do.
    """
    if not any(size.cpus for size in nodes):  # none is there yet, and nobody says of what size they will be
        alone = workers in (None, 1)
        aside = 1.0 if cpus is None else max(0.9, cpus - 0.5)  # the rest of a node of that size reads
        return Engines(workers=workers or 1, threads=cpus or (ALL if alone else 1), cpus=aside)
    threads = cpus or _threads(nodes, workers)
    fit = [size for size in nodes if size.cpus >= threads]
    aside = max((_apart(size.cpus, threads) for size in fit), default=float(threads))
    most = workers or max(1, min(_places(nodes, threads), blocks))
    return Engines(workers=most, threads=threads, cpus=1.0 if most == 1 and fit else aside)


def _threads(nodes: Sequence[Nodes], workers: int | None) -> int:
    """Of an engine: a whole node's, where the engines then use nearly all there is; fewer where more were asked for."""
    sizes = sorted({size.cpus for size in nodes if size.cpus}, reverse=True) or [1]
    if workers is not None:
        return next((n for n in range(sizes[0], 1, -1) if _places(nodes, n) >= workers), 1)
    used = {threads: threads * _places(nodes, threads) for threads in sizes}
    return next(threads for threads in sizes if used[threads] >= NEARLY_ALL * max(used.values()))


def _places(nodes: Sequence[Nodes], threads: int) -> int:
    return sum(size.count * (size.cpus // threads) for size in nodes)


def _apart(cpus: int, threads: int) -> float:
    """CPUs that keep one engine more off a node; what they leave of it is nearly as much, and goes to reading.

    Without that, engines of a node that was lost would fill the others, and wait there for reading that has no place.
    """
    return round(cpus / (cpus // threads + 1) + 0.001, 3)


def trainers(nodes: Sequence[Nodes], gpus: int, micro_batches: int) -> int:
    """Training workers: one for each GPU, or for each node where there are none, as far as a batch can be shared.

    Args:
        nodes: that are there now.
        gpus: of all of them, where the run uses GPUs; else 0.
        micro_batches: of a batch, a power of two; workers share them evenly.
    """
    most = gpus or sum(size.count for size in nodes if size.cpus)
    return min(micro_batches, 1 << max(0, most.bit_length() - 1))
