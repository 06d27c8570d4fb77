"""Resamples of whole groups, jackknife blocks and percentiles."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

CELLS = 1 << 21  # numbers in one batch of the resamples' weights: 16 MiB


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or what pandas has in place of a missing value."""
    return (
        value is None
        or (isinstance(value, float | np.floating) and bool(np.isnan(value)))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def group_codes(groups: Iterable[Any]) -> np.ndarray:
    """Return the numbers 0 … G − 1 of the groups, in the order of their names: int64 [n].

    Args:
        groups: [n], name of each sample's group; −1 is the number of a missing one.
    """
    names = [None if is_missing(group) else str(group) for group in groups]
    number = {name: code for code, name in enumerate(sorted({name for name in names if name is not None}))}
    return np.array([-1 if name is None else number[name] for name in names], np.int64)


def draw_groups(size: int, resamples: int, seed: int, *, width: int) -> Iterator[np.ndarray]:
    """Yield how often each group is drawn in each resample: int64 [batch, size], `resamples` rows in all.

    Args:
        size: number of groups, and of draws in one resample.
        resamples: number of resamples.
        seed: seed of the draws.
        width: numbers that one resample will become; decides how many rows a batch has, and nothing else.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, CELLS // width)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)


def percentiles(draws: np.ndarray, low: float = 2.5, high: float = 97.5) -> tuple[float, float]:
    """Return two percentiles of draws [R ≥ 1], each one of the draws: the outer one, so infinities stay infinite."""
    lower = float(np.percentile(draws, low, method="lower"))
    return lower, float(np.percentile(draws, high, method="higher"))


def jackknife_weights(codes: np.ndarray, blocks: int = 200) -> np.ndarray:
    """Return weights that leave out one block of groups in each row: float64 [blocks, n].

    Args:
        codes: int [n], number of each sample's group.
        blocks: maximum number of blocks; with fewer groups, each block is one group.
    """
    _, group = np.unique(codes, return_inverse=True)
    count = min(int(group.max()) + 1, blocks)
    return np.asarray(group % count != np.arange(count)[:, None], np.float64)
