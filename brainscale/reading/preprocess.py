"""A frame → one uint8 plane. The specification belongs to the model and is saved with it."""

import numpy as np
from PIL import Image

from brainscale.config.sections import PreprocessConfig
from brainscale.hashing import fingerprint
from brainscale.reading.formats.frame import Frame, percentile_window


def plane(grey: np.ndarray, spec: PreprocessConfig) -> np.ndarray:
    """Resize (aspect ratio not kept, antialiased bilinear) and centre-crop, in one step.

    Args:
        grey: uint8 [H, W].
        spec: the model's specification.

    Returns:
        uint8 [image_size, image_size].
    """
    height, width = grey.shape
    whole = resized_side(spec)
    start = (whole - spec.image_size) // 2 / whole
    stop = start + spec.image_size / whole
    box = (width * start, height * start, width * stop, height * stop)
    size = (spec.image_size, spec.image_size)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=1.2))


def resized_side(spec: PreprocessConfig) -> int:
    """Side of the whole image before the centre crop, pixels."""
    return round(spec.image_size / spec.crop)


def enough_side(spec: PreprocessConfig) -> int:
    """Side from which decoding a JPEG smaller leaves the plane nearly as it would be, pixels."""
    return resized_side(spec) * 6 // 5


def shown(frame: Frame, window: tuple[float, float]) -> np.ndarray:
    """A frame's intensities as a person would see them.

    Args:
        frame: grey pixels, and limits if the file names some.
        window: percentiles for a frame without limits of more than 8 bits.

    Returns:
        uint8 [H, W]; a frame without contrast is 0.
    """
    grey = to_uint8(frame.pixels, window, frame.limits)
    return 255 - grey if frame.inverted else grey


def to_uint8(pixels: np.ndarray, window: tuple[float, float], limits: tuple[float, float] | None = None) -> np.ndarray:
    """Intensities → 0..255: linearly between limits, or 8-bit data as they are, or between two percentiles.

    Values that are not finite count as the lower end. Where the ends meet, everything becomes 0.
    """
    if limits is None and pixels.dtype == np.uint8:
        return pixels
    low, high = limits or percentile_window(pixels, window)
    if not high > low:
        return np.zeros(pixels.shape, np.uint8)
    values = pixels.astype(np.float64 if pixels.dtype.itemsize > 2 else np.float32)
    scaled = (np.nan_to_num(values, nan=low, posinf=low, neginf=low) - low) * (255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def spec_fingerprint(spec: PreprocessConfig) -> str:
    """sha256 that changes when planes could."""
    return fingerprint(spec.model_dump(mode="json"))
