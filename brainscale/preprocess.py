"""A frame → one uint8 plane. The specification belongs to the model and is saved with it."""

import numpy as np
from PIL import Image

from brainscale.config import PreprocessConfig, fingerprint


def plane(pixels: np.ndarray, spec: PreprocessConfig) -> np.ndarray:
    """Window, resize (aspect ratio not kept, antialiased bilinear) and centre-crop one grey frame.

    Args:
        pixels: any real type [H, W].
        spec: the model's specification.

    Returns:
        uint8 [image_size, image_size].
    """
    size = spec.image_size
    whole = resized_side(spec)
    frame = Image.fromarray(to_uint8(pixels, spec.window))
    resized = frame.resize((whole, whole), Image.Resampling.BILINEAR)
    start = (whole - size) // 2
    return np.asarray(resized)[start : start + size, start : start + size]


def resized_side(spec: PreprocessConfig) -> int:
    """Side of the whole image before the centre crop, pixels."""
    return round(spec.image_size / spec.crop)


def to_uint8(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Intensities → 0..255: 8-bit data as they are, others linearly between two percentiles.

    Values that are not finite count as the lower end. A constant image becomes 0.
    """
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(pixels.shape, np.uint8)
    low, high = np.percentile(values[finite], window)
    if high <= low:
        return np.zeros(pixels.shape, np.uint8)
    scaled = (np.where(finite, values, low) - low) * (255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255), np.uint8)


def spec_fingerprint(spec: PreprocessConfig) -> str:
    """sha256 that changes when planes could."""
    return fingerprint(spec.model_dump(mode="json"))
