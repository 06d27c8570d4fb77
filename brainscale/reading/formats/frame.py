"""What every format yields: grey frames, with what is needed to show their intensities."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brainscale.reading.acquisition import UNSTATED, Acquisition

MAX_VALUES = 2**20
"""Values that a percentile is taken of at most, evenly spaced over the frame or volume."""

GreyRange = tuple[float, float]
"""Intensities that become 0 and 255."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded image, slice or frame.

    Attributes:
        pixels: [H, W], grey, any real type.
        format: name of the file format.
        mode: how the file stores a pixel, such as `L`, `RGB` or `MONOCHROME2 16`.
        width: width of the stored image as shown, pixels; `pixels` may be a smaller decoding of it.
        height: height of the stored image as shown, pixels.
        number: number in a file of several frames, from 0; None for a file of one image.
        grey_range: intensities that become 0 and 255; None where 8-bit pixels stay as they are, or where
            percentiles of the frame decide.
        inverted: whether low intensities are bright.
        opacity: uint8 [H, W], what the picture shows of each pixel: 0 for padding and transparent pixels, which are
            black and count for no percentile; None where all is shown.
        empty: whether a slice of a volume shows next to nothing.
        patient: identifier as stored; it is hashed before it leaves the process that decodes.
        issuer: who gave the patient this identifier, as stored; treated the same.
        scan: identifier of the series as stored; treated the same.
        acquisition: how the picture was taken.
    """

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int
    number: int | None = None
    grey_range: GreyRange | None = None
    inverted: bool = False
    opacity: np.ndarray | None = None
    empty: bool = False
    patient: str | None = None
    issuer: str | None = None
    scan: str | None = None
    acquisition: Acquisition = UNSTATED


def percentile_range(
    values: np.ndarray, percentiles: tuple[float, float], rescale: Callable[[np.ndarray], np.ndarray] | None = None
) -> GreyRange:
    """Return the intensities at two percentiles of the finite values; (0, 0) where none is finite.

    Args:
        values: any real type and shape: a frame, or a volume whose frames must share a range.
        percentiles: low and high, 0..100.
        rescale: turns values into intensities, and keeps their order.
    """
    flat = values.reshape(-1)
    sampled = flat[:: max(1, -(-flat.size // MAX_VALUES))]
    if sampled.dtype.kind in "iu" and sampled.dtype.itemsize <= 2 and sampled.size:
        return _percentiles_by_histogram(sampled, percentiles, rescale)
    floats = (rescale(sampled) if rescale else sampled).astype(np.float64)
    finite = floats[np.isfinite(floats)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, percentiles)
    return float(low), float(high)


def _percentiles_by_histogram(
    values: np.ndarray, percentiles: tuple[float, float], rescale: Callable[[np.ndarray], np.ndarray] | None
) -> GreyRange:
    """Return, to the bit, what numpy's percentiles of integers of 8 or 16 bits are, without sorting them."""
    lowest = int(np.iinfo(values.dtype).min)
    ends = np.cumsum(np.bincount(values.astype(np.intp) - lowest if lowest else values))

    def interpolate(rank: float) -> float:
        whole, last = int(rank), values.size - 1
        neighbours = np.searchsorted(ends, (whole, min(whole + 1, last)), side="right") + lowest
        below, above = (rescale(neighbours) if rescale else neighbours).tolist()
        share = rank - whole
        # As numpy rounds it: from the nearer of the two.
        return float(above - (above - below) * (1 - share) if share >= 0.5 else below + (above - below) * share)

    low, high = (interpolate((values.size - 1) * (percentile / 100)) for percentile in percentiles)
    return low, high


def one_line(error: Exception) -> str:
    """Return an error's text, short and in one line; for decoders whose messages quote nothing of the file."""
    return " ".join(str(error).split())[:200] or type(error).__name__
