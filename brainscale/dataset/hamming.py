"""Which of many 64-bit hashes lie within a few bits of each other, without comparing each with each.

Hashes that differ in at most d bits agree on at least m − d of any m bands of their bits. So for every choice
of m − d bands, sorting by these bands alone puts all such pairs side by side. More bands for more hashes keep
the sorted runs short, and the cost close to linear.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np

BITS = 64


def near_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of different hashes within a Hamming distance.

    Args:
        hashes: uint64 [n], each value once.
        distance: bits, 0 or more.

    Returns:
        int64 [2, pairs]: positions in `hashes`; each pair once, in no order that means anything.
    """
    found = [np.empty((2, 0), np.int64)]
    if distance > 0:
        found += [_pairs_by(hashes, mask, distance) for mask in _masks(len(hashes), distance)]
    pairs = np.sort(np.concatenate(found, axis=1), axis=0)
    return np.unique(pairs, axis=1)


def near_between(one: np.ndarray, other: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of a hash of one set and a hash of another within a Hamming distance.

    Args:
        one: uint64 [n].
        other: uint64 [m].
        distance: bits; 0 finds equal hashes.

    Returns:
        int64 [2, pairs]: positions in `one` and in `other`.
    """
    values, place = np.unique(np.concatenate([one, other]), return_inverse=True)
    near = near_pairs(values, distance)
    same = np.tile(np.arange(len(values)), (2, 1))
    links = np.concatenate([near, near[::-1], same], axis=1)
    left, right = _positions(place[: len(one)]), _positions(place[len(one) :])
    pairs = [(i, j) for a, b in links.T if a in left and b in right for i in left[a] for j in right[b]]
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _positions(values: np.ndarray) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for at, value in enumerate(values.tolist()):
        found.setdefault(value, []).append(at)
    return found


def _masks(count: int, distance: int) -> Iterator[np.uint64]:
    """Every choice of bands, wide enough together that runs of equals stay short among so many hashes."""
    bands = distance + 1
    while (bands - distance) * BITS // bands < np.log2(max(count, 2)) and bands < BITS // 4:
        bands += 1
    edges = [BITS * i // bands for i in range(bands + 1)]
    masks = [((1 << stop) - 1) ^ ((1 << start) - 1) for start, stop in pairwise(edges)]
    for chosen in combinations(masks, bands - distance):
        yield np.uint64(sum(chosen))


def _pairs_by(hashes: np.ndarray, mask: np.uint64, distance: int) -> np.ndarray:
    """Near pairs among hashes that agree where the mask is set."""
    masked = hashes & mask
    order = np.argsort(masked, kind="stable")
    masked, ordered = masked[order], hashes[order]
    found = []
    left = np.arange(len(order) - 1)
    step = 1
    while left.size:  # partners one place on, then two, as long as a run of equals lasts
        left = left[left + step < len(order)]
        left = left[masked[left] == masked[left + step]]
        near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= distance]
        found.append(np.stack([order[near], order[near + step]]))
        step += 1
    return np.concatenate(found, axis=1) if found else np.empty((2, 0), np.int64)
