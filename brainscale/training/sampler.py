"""The order in which training sees its samples: a function of (seed, epoch, sample ids), and of nothing else.

Positions count along the sorted sample ids, so neither a directory's order, nor Ray's blocks, nor the worker
count play a part. A set of more than a window is shuffled in two levels, so that an epoch reads each of its
planes from one window: blocks of neighbours first, then the samples inside each window.
"""

from collections.abc import Iterator

import numpy as np

from brainscale.seeds import derive

BLOCK = 256
"""Samples in a row that stay in one window."""


Batch = list[np.ndarray]
"""Positions of each of a batch's micro-batches."""


def epoch_order(count: int, seed: int, epoch: int, window: int) -> np.ndarray:
    """A permutation of 0 … count − 1; one of all of them where `count` is not above `window`.

    Args:
        count: samples.
        seed: the run's.
        epoch: from 1.
        window: samples that are shuffled together.
    """
    generator = np.random.Generator(np.random.Philox(key=derive(seed, "order", epoch)))
    blocks = generator.permutation(-(-count // BLOCK)) * BLOCK
    order = np.concatenate([np.arange(at, min(at + BLOCK, count)) for at in blocks])
    for at in range(0, count, window):
        generator.shuffle(order[at : at + window])
    return order


def cut(order: np.ndarray, window: int, batch_size: int, micro_batches: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Cut an order into global batches, each a list of exactly `micro_batches` arrays, some perhaps empty.

    Every position comes exactly once. The last batch may be short. A remainder of one sample joins the
    micro-batch before it, since batch statistics need two values.

    Args:
        order: positions.
        window: samples in reach at a time, a multiple of `batch_size`.
        batch_size: samples in a batch, a multiple of `micro_batches`.
        micro_batches: in a batch.

    Yields:
        The window that a batch lies in, the same object for all its batches; and the batch.
    """
    starts = _starts(len(order), window)
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        part = order[start:end]
        for batch in _batches(part, batch_size // micro_batches, micro_batches):
            yield part, batch


def _batches(order: np.ndarray, micro_size: int, micro_batches: int) -> Iterator[Batch]:
    starts = _starts(len(order), micro_size)
    pieces = [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True)]
    empty = order[:0]
    for at in range(0, len(pieces), micro_batches):
        batch = pieces[at : at + micro_batches]
        yield batch + [empty] * (micro_batches - len(batch))


def _starts(count: int, size: int) -> list[int]:
    """Where pieces of `size` begin; a last piece of one is none of its own."""
    starts = list(range(0, count, size))
    return starts[:-1] if len(starts) > 1 and count - starts[-1] == 1 else starts
