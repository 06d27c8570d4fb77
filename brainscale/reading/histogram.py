"""How often each intensity occurs: small enough to travel, fine enough for the percentiles of what it was counted in.

The window of a volume comes from the sum of its slices' histograms, so that it does not matter in how many files they
are. Intensities of up to 16 bits are counted exactly, as long as there are no more than `MAX_EXACT` different ones.
More are put into bins that are narrow where most intensities are: a percentile is within 1/2000 of the range between
`EDGES`, an eighth of a grey level.
"""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

GreyRange = tuple[float, float]
"""Intensities that become 0 and 255."""
Rescale = Callable[[np.ndarray], np.ndarray]
"""Stored values → intensities, in the same or in the opposite order."""

MAX_EXACT = 4096
MAX_VALUES = 2**20
"""Different values that there can be at most: as many as there are bins of `_FLOAT_BITS` less than 32 bits."""
MAX_COUNT = 2**40
"""Pixels of one value, beyond any slice or volume."""
EDGES = (0.5, 99.5)
BINS = 1024
"""Bins for each factor e of the distance from the median, far from it; near it, of a quarter of the range."""
CHUNK = 2**20
"""Values counted at a time: counting needs eight bytes for each."""
SMALL = 2**14
"""Values up to which sorting is as fast as counting."""
_FLOAT_BITS = 12
"""Bits that are cut from a float32 to make its bin: what is left is its sign, its exponent and 11 bits behind."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Intensities and how often they occur.

    Attributes:
        values: float64 [n], ascending.
        counts: int64 [n], positive.
    """

    values: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        """Return the number of pixels counted."""
        return int(self.counts.sum())

    def percentiles(self, percentiles: tuple[float, float]) -> GreyRange:
        """Return the intensities at two percentiles, as numpy interpolates them; (0, 0) where nothing was counted."""
        if not len(self.values):
            return 0.0, 0.0
        low, high = (self._at(percentile) for percentile in percentiles)
        return low, high

    def brightest(self, rank: int, *, inverted: bool = False) -> float | None:
        """Return the intensity of the pixel that is the rank-th brightest; None where fewer were counted.

        Args:
            rank: from 1.
            inverted: whether low intensities are bright.
        """
        if rank > self.total:
            return None
        order = slice(None) if inverted else slice(None, None, -1)
        return float(self.values[order][np.searchsorted(np.cumsum(self.counts[order]), rank)])

    def to_bytes(self) -> bytes:
        """Return the histogram in a few kilobytes."""
        return zlib.compress(self.values.tobytes() + self.counts.astype(np.int64).tobytes(), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Histogram":
        """Return the histogram whose `to_bytes` gave these bytes.

        Raises:
            ValueError: it gave no such bytes.
        """
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(data, 16 * MAX_VALUES + 1)
        except zlib.error:
            raise ValueError("not compressed") from None
        if not inflater.eof or len(plain) % 16:
            raise ValueError("too long, or cut off")
        half = len(plain) // 2
        values, counts = np.frombuffer(plain[:half], np.float64), np.frombuffer(plain[half:], np.int64)
        if not (np.isfinite(values).all() and np.all(counts > 0) and np.all(counts < MAX_COUNT)):
            raise ValueError("values or counts that make no sense")
        return cls(values, counts)

    def _at(self, percentile: float) -> float:
        ends = np.cumsum(self.counts)
        last = int(ends[-1]) - 1
        rank = last * (percentile / 100)
        whole = int(rank)
        below, above = self.values[np.searchsorted(ends, (whole, min(whole + 1, last)), side="right")].tolist()
        share = rank - whole
        # As numpy rounds it: from the nearer of the two.
        return float(above - (above - below) * (1 - share) if share >= 0.5 else below + (above - below) * share)


def count_values(values: np.ndarray, rescale: Rescale | None = None) -> Histogram:
    """Count the finite values of an image or a volume.

    Args:
        values: any real type and shape.
        rescale: turns values into intensities; for integers of up to 16 bits, it need not be applied to every pixel.
    """
    flat = values.ravel(order="K")
    if flat.dtype.kind in "iub" and flat.dtype.itemsize <= 2:
        stored, counts = count_integers(flat)
        intensities = np.asarray(rescale(stored) if rescale else stored, np.float64)
        return _reduce(*_sorted(intensities, counts))
    return _reduce(*_count_floats(np.asarray(rescale(flat)) if rescale else flat))


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """Return the histogram of several images together."""
    parts = list(histograms)
    if not parts:
        return Histogram(np.empty(0), np.empty(0, np.int64))
    values, counts = (np.concatenate(arrays) for arrays in zip(*((h.values, h.counts) for h in parts), strict=True))
    return _reduce(*_sorted(values, counts))


def count_integers(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different values of an array of 8 or 16 bits, ascending, and their counts."""
    native = flat.dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{native.itemsize}")
    counts = np.zeros(2 ** (8 * native.itemsize), np.int64)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK].astype(native, copy=False)
        part = np.bincount(chunk.view(unsigned))
        counts[: len(part)] += part
    (present,) = np.nonzero(counts)
    if native.kind == "i":  # negative ones come last
        present = np.roll(present, -int(np.searchsorted(present, len(counts) // 2)))
    return present.astype(unsigned).view(native), counts[present]


def _count_floats(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values and counts, exactly where there are few, else with 11 bits of their distance from the median."""
    if flat.size <= SMALL:
        floats = flat.astype(np.float64)
        values, counts = np.unique(floats[np.isfinite(floats)], return_counts=True)
        return values, counts
    sampled = flat[:: -(-flat.size // SMALL)].astype(np.float64)
    finite = sampled[np.isfinite(sampled)]
    centre = float(np.median(finite)) if finite.size else 0.0
    counts = np.zeros(2 ** (32 - _FLOAT_BITS), np.int64)
    for start in range(0, flat.size, CHUNK):
        distances = (flat[start : start + CHUNK].astype(np.float64) - centre).astype(np.float32)
        bits = distances[np.isfinite(distances)].view(np.uint32) >> _FLOAT_BITS
        part = np.bincount(bits)
        counts[: len(part)] += part
    (present,) = np.nonzero(counts)
    bits = present.astype(np.uint32) << _FLOAT_BITS
    bits[bits << 1 != 0] += 1 << (_FLOAT_BITS - 1)  # the middle of a bin; zero stays zero
    return _sorted(bits.view(np.float32).astype(np.float64) + centre, counts[present])


def _sorted(values: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return finite values in ascending order, each once."""
    is_finite = np.isfinite(values)
    values, counts = values[is_finite], counts[is_finite]
    order = np.argsort(values, kind="stable")
    return _sum_runs(values[order], counts[order], values[order])


def _reduce(values: np.ndarray, counts: np.ndarray) -> Histogram:
    """Join values into bins where there are too many of them; a bin has the mean of what is in it."""
    exact = Histogram(values, counts)
    if len(values) <= MAX_EXACT:
        return exact
    low, high = exact.percentiles(EDGES)
    median, _ = exact.percentiles((50.0, 50.0))
    width = (high - low) / 4 or (values[-1] - values[0]) / 4
    return Histogram(*_sum_runs(values, counts, np.rint(BINS * np.arcsinh((values - median) / width))))


def _sum_runs(values: np.ndarray, counts: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean value and the count of each run of equal bins."""
    if not len(values):
        return values, counts
    starts = np.concatenate([[0], np.flatnonzero(np.diff(bins)) + 1])
    if len(starts) == len(values):
        return values, counts
    sums = np.add.reduceat(counts, starts)
    first = values[starts]  # its distance, not its value, is summed: equal values stay exactly as they are
    apart = np.add.reduceat((values - np.repeat(first, np.diff([*starts, len(values)]))) * counts, starts)
    return first + apart / sums, sums
