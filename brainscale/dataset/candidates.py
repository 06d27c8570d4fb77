"""Find the pairs of 64-bit hashes that may be of near duplicates, without comparing every pair.

Locality-sensitive hashing by bit sampling (Indyk and Motwani, STOC 1998): in each of several rounds, the hashes are
sorted by other randomly chosen bits, and those that are equal in these bits are compared. The more hashes, the more
bits are chosen, so that the cost stays close to linear. In each round, the hashes are first flipped so that two of
their bits are 0, and take part as they are and transposed: so flipped and turned images meet as well.
"""

import numpy as np

from brainscale.reading.signature import BITS, HASH_SIDE
from brainscale.seeds import derive

ORIENTATIONS = 8
"""Ways to flip and turn an image by quarters."""
ROUNDS = 48
"""Number of times that the hashes are sorted. The more, the fewer pairs are missed."""
NEIGHBOURS = 16
"""Hashes that one hash is compared with in a round at most. Longer runs of equal bits are chained, not compared all."""
_OCCUPANCY = 4.0  # mean number of comparisons a hash in a round, above which one more bit is chosen


def orient_hashes(hashes: np.ndarray, orientation: int) -> np.ndarray:
    """Return the hashes of the images after `orient` with the same orientation.

    A flip inverts the bits of the odd frequencies in its direction; a transposition swaps the two directions.

    Args:
        hashes: uint64 [n].
        orientation: 0 … 7.
    """
    big_endian = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    bits = np.unpackbits(big_endian, axis=1).reshape(-1, HASH_SIDE, HASH_SIDE)
    if orientation & 4:
        bits = bits.transpose(0, 2, 1)
    odd = np.arange(HASH_SIDE) % 2
    flipped = bits ^ ((orientation >> 1 & 1) * odd[:, None] ^ (orientation & 1) * odd[None, :]).astype(np.uint8)
    return np.packbits(flipped.reshape(-1, BITS), axis=1).view(">u8").ravel().astype(np.uint64)


def orient(images: np.ndarray, orientation: int) -> np.ndarray:
    """Return images flipped or turned: transposed (bit 2), upside down (bit 1), left to right (bit 0), in this order.

    Args:
        images: [..., side, side].
        orientation: 0 … 7.
    """
    if orientation & 4:
        images = images.swapaxes(-1, -2)
    return images[..., :: -1 if orientation & 2 else 1, :: -1 if orientation & 1 else 1]


def find_candidates(hashes: np.ndarray, distance: int, number: int) -> np.ndarray:
    """Return pairs of hashes within a Hamming distance in some orientation, as one round finds them.

    The result depends on nothing but the arguments. A pair may be missed, the more likely the farther it is apart.

    Args:
        hashes: uint64 [n].
        distance: maximum Hamming distance in bits.
        number: number of the round, which decides on the bits.

    Returns:
        int64 [pairs], first · n + second, where first and second are positions in `hashes`, first < second.
    """
    count = len(hashes)
    generator = np.random.default_rng(derive(0, "candidates", number))
    bits = generator.permutation(np.arange(BITS - 1)).astype(np.uint64)  # bit 63, of the mean, is always 0
    across, down = (next(bit for bit in bits if mask >> bit & 1 and not other >> bit & 1) for mask, other in _FLIPS)
    upright = np.concatenate([hashes, orient_hashes(hashes, 4)])
    for bit, (mask, _) in zip((across, down), _FLIPS, strict=True):
        upright ^= (upright >> bit & np.uint64(1)) * mask
    order, masked = _sort_by_bits(upright, bits[~np.isin(bits, [across, down])])
    return _compare_neighbours(upright, order, masked, distance, count)


_ODD_COLUMNS, _ODD_ROWS = (orient_hashes(np.zeros(1, np.uint64), flip)[0] for flip in (1, 2))
_FLIPS = ((_ODD_COLUMNS, _ODD_ROWS), (_ODD_ROWS, _ODD_COLUMNS))
"""The bits that a flip inverts, left to right and upside down, and those of the other flip."""


def _sort_by_bits(hashes: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort hashes by the first bits of a list, by as many as keep the runs of equal ones short.

    Args:
        hashes: uint64 [n].
        bits: uint64 [n], positions of the bits.

    Returns:
        The order of the hashes, and their chosen bits in this order.
    """
    chosen = int(np.log2(len(hashes)))
    while True:
        chosen += 1
        mask = np.bitwise_or.reduce(np.uint64(1) << bits[:chosen])
        masked = hashes & mask
        order = np.argsort(masked, kind="stable")
        masked = masked[order]
        starts = np.flatnonzero(np.concatenate([[True], masked[1:] != masked[:-1]]))
        lengths = np.diff(np.append(starts, len(masked))).astype(np.float64)
        comparisons = np.minimum(lengths - 1, 2 * NEIGHBOURS) * lengths / 2
        if comparisons.sum() <= _OCCUPANCY * len(masked) or chosen == len(bits):
            return order, masked


def _compare_neighbours(
    upright: np.ndarray, order: np.ndarray, masked: np.ndarray, distance: int, count: int
) -> np.ndarray:
    """Return the near pairs among the next neighbours in a sorted order, as first · count + second."""
    ordered, images = upright[order], order % count
    left, near = np.arange(len(order) - 1), []
    for step in range(1, NEIGHBOURS + 1):
        left = left[left + step < len(order)]
        left = left[masked[left] == masked[left + step]]
        if not left.size:
            break
        close = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= distance]
        first, second = images[close], images[close + step]
        other = first != second
        near.append((np.minimum(first, second) * count + np.maximum(first, second))[other])
    return np.unique(np.concatenate(near)) if near else np.empty(0, np.int64)
