"""Find the pairs of 64-bit hashes within a small Hamming distance, without comparing every pair.

Cut the bits of each hash into m bands. Two hashes that differ in at most d bits are equal in at least m − d bands.
So for each choice of m − d bands, sorting the hashes by these bands puts every such pair into one run of equal
values, and only hashes of one run have to be compared. The more hashes, the more bands: runs stay short, and the
cost stays close to linear.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

BITS = 64


def find_near_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Return the pairs of different hashes within a Hamming distance.

    Args:
        hashes: uint64 [n], all different.
        distance: maximum Hamming distance in bits, 0 or more.

    Returns:
        int64 [2, pairs]: positions in `hashes`; each pair once, in arbitrary order.
    """
    pairs_by_mask = [np.empty((2, 0), np.int64)]
    if distance > 0:
        pairs_by_mask += [_pairs_equal_under(mask, hashes, distance) for mask in _masks(len(hashes), distance)]
    pairs = np.sort(np.concatenate(pairs_by_mask, axis=1), axis=0)
    return np.unique(pairs, axis=1)


def find_near_matches(first: np.ndarray, second: np.ndarray, distance: int) -> np.ndarray:
    """Return the pairs of a hash from one set and a hash from another within a Hamming distance.

    Args:
        first: uint64 [n].
        second: uint64 [m].
        distance: maximum Hamming distance in bits; 0 finds equal hashes only.

    Returns:
        int64 [2, pairs]: positions in `first` and in `second`.
    """
    values, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    near = find_near_pairs(values, distance)
    equal = np.tile(np.arange(len(values)), (2, 1))
    links = np.concatenate([near, near[::-1], equal], axis=1)
    in_first, in_second = _positions(index[: len(first)]), _positions(index[len(first) :])
    pairs = [(i, j) for a, b in links.T if a in in_first and b in in_second for i in in_first[a] for j in in_second[b]]
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _positions(values: np.ndarray) -> dict[int, list[int]]:
    """Return value → the positions where it occurs."""
    positions: dict[int, list[int]] = {}
    for position, value in enumerate(values.tolist()):
        positions.setdefault(value, []).append(position)
    return positions


def _masks(count: int, distance: int) -> Iterator[np.uint64]:
    """Yield a bit mask for each choice of bands, wide enough that runs of equal values stay short."""
    bands = distance + 1
    while (bands - distance) * BITS // bands < np.log2(max(count, 2)) and bands < BITS // 4:
        bands += 1
    edges = [BITS * i // bands for i in range(bands + 1)]
    band_masks = [((1 << stop) - 1) ^ ((1 << start) - 1) for start, stop in pairwise(edges)]
    for chosen in combinations(band_masks, bands - distance):
        yield np.uint64(sum(chosen))


def _pairs_equal_under(mask: np.uint64, hashes: np.ndarray, distance: int) -> np.ndarray:
    """Return the near pairs among the hashes that are equal in the bits of the mask."""
    masked = hashes & mask
    order = np.argsort(masked, kind="stable")
    masked, ordered = masked[order], hashes[order]
    pairs = []
    left = np.arange(len(order) - 1)
    step = 1
    while left.size:  # compare neighbours, then every second hash, and so on until no run is that long
        left = left[left + step < len(order)]
        left = left[masked[left] == masked[left + step]]
        near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= distance]
        pairs.append(np.stack([order[near], order[near + step]]))
        step += 1
    return np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0), np.int64)
