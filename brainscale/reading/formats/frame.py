"""What every format gives: grey frames, with what is needed to show their intensities."""

from dataclasses import dataclass

import numpy as np

ENOUGH_VALUES = 2**20
"""A window rests on at most so many values, evenly spaced over the frame or volume."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded image, slice or frame.

    Attributes:
        pixels: [H, W], grey, any real type.
        format: name of the file format.
        mode: how the file stores a pixel, such as `L`, `RGB` or `MONOCHROME2 16`.
        width: of the stored image as shown, pixels; `pixels` may be a smaller decoding of it.
        height: as width.
        number: place in a file of several frames, from 0; None for a file of one image.
        limits: intensities that become 0 and 255; None where 8-bit data stand as they are, or the percentiles
            of the frame decide.
        inverted: whether low intensities are bright.
        empty: a slice of a volume that shows next to nothing.
        patient: identifier as stored; it is hashed before it leaves the process that decodes.
        scan: identifier of the series, treated the same.
    """

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int
    number: int | None = None
    limits: tuple[float, float] | None = None
    inverted: bool = False
    empty: bool = False
    patient: str | None = None
    scan: str | None = None


def percentile_window(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Intensities at two percentiles of what is finite; (0, 0) where nothing is.

    Args:
        values: any real type and shape: a frame, or a volume whose frames must share a window.
        percentiles: low and high, 0..100.
    """
    flat = values.reshape(-1)
    some = flat[:: max(1, -(-flat.size // ENOUGH_VALUES))].astype(np.float64)
    finite = some[np.isfinite(some)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, percentiles)
    return float(low), float(high)


def one_line(error: Exception) -> str:
    """An error's text, short and in one line; for decoders whose messages hold nothing of the file's text."""
    return " ".join(str(error).split())[:200] or type(error).__name__
