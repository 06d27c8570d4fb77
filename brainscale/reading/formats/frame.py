"""What every format yields: grey frames, with what is needed to show their intensities."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainscale.reading.acquisition import UNSTATED, Acquisition
from brainscale.reading.histogram import GreyRange, Histogram, Rescale, count_integers, count_values

MAX_VALUES = 2**20
"""Values that a percentile is taken of at most, evenly spaced over the frame or volume."""
Windows = Mapping[int | None, tuple[float, float]]
"""Number of a frame → the intensities that become 0 and 255."""
NO_WINDOWS: Windows = {}


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
        position: number of the slice in its file, in the order of space; None where the file does not decide that.
        alone: whether the grey range comes from this slice only.
        in_series: whether the grey range comes from all slices of a series, in however many files.
        rescale: turns `pixels` into intensities; None where they are.
        instance: identifier of the object as stored; it is hashed before it leaves the process that decodes.
        geometry: as in `series.SliceFacts`.
        sequence: number of the object in its series, and of the frame in its object; None without one.
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
    position: int | None = None
    alone: bool = False
    in_series: bool = False
    rescale: Rescale | None = None
    instance: str | None = None
    geometry: tuple[float, ...] | None = None
    sequence: float | None = None
    patient: str | None = None
    issuer: str | None = None
    scan: str | None = None
    acquisition: Acquisition = UNSTATED


def count_frame(frame: Frame) -> Histogram:
    """Count the intensities of a frame, without its padding."""
    shown = frame.pixels if frame.opacity is None else frame.pixels[frame.opacity > 0]
    return count_values(shown, frame.rescale)


def percentile_range(values: np.ndarray, percentiles: tuple[float, float], rescale: Rescale | None = None) -> GreyRange:
    """Return the intensities at two percentiles of the finite values; (0, 0) where none is finite.

    Args:
        values: any real type and shape: a picture, or frames that must share a range.
        percentiles: low and high, 0..100.
        rescale: turns values into intensities, and keeps their order.
    """
    flat = values.reshape(-1)
    sampled = flat[:: max(1, -(-flat.size // MAX_VALUES))]
    if sampled.dtype.kind in "iu" and sampled.dtype.itemsize <= 2 and sampled.size:
        stored, counts = count_integers(sampled)
        return Histogram(np.asarray(rescale(stored) if rescale else stored), counts).percentiles(percentiles)
    floats = (rescale(sampled) if rescale else sampled).astype(np.float64)
    finite = floats[np.isfinite(floats)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, percentiles)
    return float(low), float(high)


def one_line(error: Exception) -> str:
    """Return an error's text, short and in one line; for decoders whose messages quote nothing of the file."""
    return " ".join(str(error).split())[:200] or type(error).__name__
