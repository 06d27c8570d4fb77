"""Draws of whole groups, jackknife blocks and percentiles."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

CELLS = 1 << 21  # numbers in one piece of the resamples' weights: 16 MiB


def group_codes(groups: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Numbers 0 … G − 1 [N] of the groups, in the order of their names; a sample of no group is its own."""
    names = [("1", str(i)) if group is None else ("0", str(group)) for i, group in enumerate(groups)]
    number = {name: code for code, name in enumerate(sorted(set(names)))}
    return np.array([number[name] for name in names], np.int64)


def drawn_groups(size: int, resamples: int, seed: int, *, width: int) -> Iterator[np.ndarray]:
    """How often each of `size` groups is drawn: int64 [some, size], `resamples` rows in all.

    Args:
        size: how many groups there are, and are drawn.
        resamples: how many times.
        seed: of the draws.
        width: numbers that one resample is to become; how many rows a piece has hangs on it, and nothing else.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, CELLS // width)
    for start in range(0, resamples, rows):
        some = min(rows, resamples - start)
        drawn = generator.integers(0, size, (some, size)) + size * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * size).reshape(some, size)


def percentiles(draws: np.ndarray, low: float = 2.5, high: float = 97.5) -> tuple[float, float]:
    """Two percentiles [R ≥ 1], each a draw: the outer one, so infinities stay what they are."""
    at_low = float(np.percentile(draws, low, method="lower"))
    return at_low, float(np.percentile(draws, high, method="higher"))


def jackknife_weights(codes: np.ndarray, blocks: int = 200) -> np.ndarray:
    """Every sample but those of one block of groups, in each row: float64 [blocks, N], a group a block where few.

    Args:
        codes: int [N], numbers 0 … G − 1 of the samples' groups.
        blocks: at most; with more groups, each row leaves out several.
    """
    _, at = np.unique(codes, return_inverse=True)
    some = min(int(at.max()) + 1, blocks)
    return np.asarray(at % some != np.arange(some)[:, None], np.float64)
