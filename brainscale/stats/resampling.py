"""Resamples of whole groups, jackknife blocks and percentiles; never more of them at once than memory has room for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.seeds import derive

CELLS = 1 << 20
"""Numbers that one batch of resamples has at a time, 8 MiB; a single resample may have more."""

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to many arguments and returns the results in order: the built-in map, or tasks on a cluster."""


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or what pandas has in place of a missing value."""
    return (
        value is None
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def group_codes(groups: Iterable[Any] | pa.ChunkedArray) -> np.ndarray:
    """Return the numbers 0 … G − 1 of the groups, in the order of their names: int64 [n].

    Args:
        groups: [n], name of each sample's group; −1 is the number of a missing one. A million names in an Arrow column
            of texts never become Python objects.
    """
    if isinstance(groups, pa.ChunkedArray):
        ranks = pc.rank(groups, tiebreaker="dense").to_numpy().astype(np.int64)
        return np.where(groups.is_valid().to_numpy(), ranks - 1, -1)
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "iu":  # name each group once, not each sample
        distinct, inverse = np.unique(groups, return_inverse=True)
        return np.asarray(group_codes(distinct.tolist())[inverse])
    names = [None if is_missing(group) else str(group) for group in groups]
    number = {name: code for code, name in enumerate(sorted({name for name in names if name is not None}))}
    return np.array([-1 if name is None else number[name] for name in names], np.int64)


def count_distinct(codes: np.ndarray) -> int:
    """Return how many different numbers there are; of a million, NumPy's own count takes seconds."""
    return int(np.count_nonzero(np.diff(np.sort(codes)))) + bool(len(codes))


def rows_at_once(width: int) -> int:
    """Return how many resamples of `width` numbers a batch has: `CELLS` numbers, and one resample at least."""
    return max(1, CELLS // width)


def draw_groups(size: int, resamples: int, seed: int, *, width: int) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn in each resample: int64 [batch, size], `resamples` rows in all.

    Args:
        size: number of groups, and of draws in one resample.
        resamples: number of resamples.
        seed: seed of the draws.
        width: numbers that one resample will become; decides how many rows a batch has, and nothing else.
    """
    generator = np.random.default_rng(seed)
    rows = rows_at_once(width)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)


def draw_numbered(size: int, numbers: Sequence[int], seed: int) -> np.ndarray:
    """Return how often each group is drawn in some resamples, each with a seed of its own: int64 [numbers, size].

    So any part of a large bootstrap can be computed anywhere, and the resamples stay the same.

    Args:
        size: number of groups, and of draws in one resample.
        numbers: numbers of the resamples.
        seed: seed of the bootstrap.
    """
    counts = np.empty((len(numbers), size), np.int64)
    for row, number in enumerate(numbers):
        drawn = np.random.default_rng(derive(seed, "resample", number)).integers(0, size, size, np.int32)
        counts[row] = np.bincount(drawn, minlength=size)
    return counts


def percentiles(draws: np.ndarray, low: float = 2.5, high: float = 97.5) -> tuple[float, float]:
    """Return two percentiles of draws [R ≥ 1], each one of the draws: the outer one, so infinities stay infinite."""
    lower = float(np.percentile(draws, low, method="lower"))
    return lower, float(np.percentile(draws, high, method="higher"))


def jackknife_blocks(codes: np.ndarray, blocks: int = 200) -> tuple[np.ndarray, int]:
    """Return the block of groups that each sample is left out with, int64 [n], and the number of blocks.

    Args:
        codes: int [n], number of each sample's group.
        blocks: maximum number of blocks; with fewer groups, each block is one group.
    """
    _, group = np.unique(codes, return_inverse=True)
    count = min(int(group.max()) + 1, blocks)
    return group % count, count


def leave_out(block: np.ndarray, numbers: range, *, width: int) -> Iterator[np.ndarray]:
    """Yield weights without one block after another: float64 [batch, n], as many rows as numbers.

    Args:
        block: int [n], block of each sample, or of each group.
        numbers: numbers of the blocks.
        width: as for `draw_groups`.
    """
    rows = rows_at_once(width)
    for start in range(0, len(numbers), rows):
        yield np.asarray(block != np.array(numbers[start : start + rows])[:, None], np.float64)
