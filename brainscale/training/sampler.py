"""Shuffle the samples of an epoch and cut them into batches, as a function of the seed and the epoch alone.

Positions refer to the sorted sample ids, so the order of files in a folder, Ray's blocks and the number of workers have
no effect. A dataset larger than a window is shuffled in two levels, so that each worker needs only the planes of one
window at a time: first blocks of neighbouring samples, then the samples within each window.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from brainscale.seeds import derive

BLOCK = 256
"""Number of neighbouring samples that stay together when windows are filled."""

Batch = list[np.ndarray]
"""Positions of the samples, one array for each micro-batch."""


def epoch_order(count: int, seed: int, epoch: int, window: int) -> np.ndarray:
    """Return the order of the samples in an epoch, a permutation of 0 … count − 1.

    Args:
        count: number of samples.
        seed: seed of the run.
        epoch: number of the epoch, from 1.
        window: number of samples that are shuffled together.
    """
    generator = np.random.Generator(np.random.Philox(key=derive(seed, "order", epoch)))
    block_starts = generator.permutation(-(-count // BLOCK)) * BLOCK
    order = np.concatenate([np.arange(start, min(start + BLOCK, count)) for start in block_starts])
    for start in range(0, count, window):
        generator.shuffle(order[start : start + window])
    return order


def cut_into_windows(
    order: np.ndarray, window: int, batch_size: int, micro_batches: int, skip: int = 0
) -> Iterator[list[Batch]]:
    """Cut an order of samples into windows of batches of `micro_batches` arrays each, of which the last may be empty.

    Every position occurs exactly once. The last batch of a window may be smaller. A single sample that is left over
    joins the micro-batch before it, because batch statistics need two values.

    Args:
        order: positions of the samples.
        window: number of samples in a window, a multiple of `batch_size`.
        batch_size: number of samples in a batch, a multiple of `micro_batches`.
        micro_batches: number of micro-batches in a batch.
        skip: number of batches to leave out at the start, with the windows that have no other batch.

    Yields:
        The batches of a window.
    """
    starts = _piece_starts(len(order), window)
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        batches = list(_batches_of_window(order[start:end], batch_size // micro_batches, micro_batches))
        if skip < len(batches):
            yield batches[skip:]
        skip = max(0, skip - len(batches))


def own_share(batch: Batch, rank: int, world_size: int) -> range:
    """Return the numbers of the micro-batches of a batch that one of the workers computes."""
    share = len(batch) // world_size
    return range(rank * share, (rank + 1) * share)


def own_positions(batches: Sequence[Batch], rank: int, world_size: int) -> np.ndarray:
    """Return the positions of all samples in some batches that one of the workers computes."""
    return np.concatenate([batch[m] for batch in batches for m in own_share(batch, rank, world_size)])


def count_batches(count: int, window: int, batch_size: int, micro_batches: int) -> int:
    """Return the number of batches that `cut_into_windows` makes of `count` samples, without making them."""
    starts = _piece_starts(count, window)
    sizes = (end - start for start, end in zip(starts, [*starts[1:], count], strict=True))
    return sum(-(-len(_piece_starts(size, batch_size // micro_batches)) // micro_batches) for size in sizes)


def _batches_of_window(positions: np.ndarray, micro_size: int, micro_batches: int) -> Iterator[Batch]:
    starts = _piece_starts(len(positions), micro_size)
    pieces = [positions[start:end] for start, end in zip(starts, [*starts[1:], len(positions)], strict=True)]
    empty = positions[:0]
    for start in range(0, len(pieces), micro_batches):
        batch = pieces[start : start + micro_batches]
        yield batch + [empty] * (micro_batches - len(batch))


def _piece_starts(count: int, size: int) -> list[int]:
    """Return the starts of pieces of `size` elements; a last piece of one element joins the piece before it."""
    starts = list(range(0, count, size))
    return starts[:-1] if len(starts) > 1 and count - starts[-1] == 1 else starts
