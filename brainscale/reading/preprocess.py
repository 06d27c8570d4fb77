"""A frame → one uint8 plane. The specification belongs to the model and is saved with it."""

import numpy as np
from PIL import Image

from brainscale.config.data_sections import PreprocessConfig
from brainscale.hashing import fingerprint
from brainscale.reading.formats.frame import Frame, count_frame, percentile_range
from brainscale.reading.grey_levels import normalise_levels
from brainscale.reading.histogram import GreyRange
from brainscale.reading.signature import Box, find_head

HEAD_FITS = ("head", "head_pad")
"""Values of `fit` that look for the head."""


def make_plane(grey: np.ndarray, spec: PreprocessConfig) -> np.ndarray:
    """Fit an image into the square plane (antialiased bilinear), crop to the centre, and normalise grey levels.

    Args:
        grey: uint8 [H, W].
        spec: the model's specification.

    Returns:
        uint8 [image_size, image_size].
    """
    height, width = grey.shape
    box = find_head(grey) if spec.fit in HEAD_FITS else (0, 0, width, height)
    plane = _pad(grey, box, spec) if spec.fit in ("pad", "head_pad") else _squash(grey, box, spec)
    return normalise_levels(plane, spec.normalisation)


def _squash(grey: np.ndarray, box: Box, spec: PreprocessConfig) -> np.ndarray:
    """Stretch a box of an image to the plane and crop it, in one step."""
    left, top, right, bottom = box
    side = resized_side(spec)
    start = (side - spec.image_size) // 2 / side
    stop = start + spec.image_size / side
    width, height = right - left, bottom - top
    kept = (left + width * start, top + height * start, left + width * stop, top + height * stop)
    return _resize(grey, kept, (spec.image_size, spec.image_size))


def _pad(grey: np.ndarray, box: Box, spec: PreprocessConfig) -> np.ndarray:
    """Resize a box of an image without stretching it, centre it in a black square, and crop that."""
    side = resized_side(spec)
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    square = np.zeros((side, side), np.uint8)
    square[top : top + size[1], left : left + size[0]] = _resize(grey, box, size)
    start = (side - spec.image_size) // 2
    return square[start : start + spec.image_size, start : start + spec.image_size]


def _resize(grey: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=1.2))


def resized_side(spec: PreprocessConfig) -> int:
    """Return the side of the whole image before the centre crop, pixels."""
    return round(spec.image_size / spec.crop)


def min_decoded_side(spec: PreprocessConfig) -> int:
    """Return the smallest side to decode a JPEG at: the plane stays nearly as it would be, pixels.

    A head is seldom smaller than half of the image.
    """
    return resized_side(spec) * 6 // 5 * (2 if spec.fit in HEAD_FITS else 1)


def to_grey(frame: Frame, percentiles: tuple[float, float]) -> np.ndarray:
    """Turn the intensities of a frame into grey levels, as a person would see them.

    Args:
        frame: grey pixels, and their range if the file names one.
        percentiles: range of a slice alone, and of any frame of more than 8 bits that names none.

    Returns:
        uint8 [H, W]; a frame without contrast is 0.
    """
    pixels, opacity, grey_range = frame.pixels, frame.opacity, frame.grey_range
    if grey_range is None and frame.in_series:
        grey_range = count_frame(frame).percentiles(percentiles)
    if frame.rescale:
        pixels = frame.rescale(pixels)
    if grey_range is None and pixels.dtype != np.uint8:
        grey_range = percentile_range(pixels if opacity is None else pixels[opacity > 0], percentiles)
    grey = to_uint8(pixels, percentiles, grey_range)
    if frame.inverted:
        grey = 255 - grey
        if pixels.dtype.kind == "f":
            grey[~np.isfinite(pixels)] = 0
    if opacity is not None:
        grey = ((grey.astype(np.uint16) * opacity + 127) // 255).astype(np.uint8)
    return grey


def to_uint8(pixels: np.ndarray, percentiles: tuple[float, float], grey_range: GreyRange | None = None) -> np.ndarray:
    """Turn intensities into 0..255.

    Values that are not finite count as the lower end. Where the ends meet, everything becomes 0.

    Args:
        pixels: [H, W], any real type.
        percentiles: range without `grey_range`, where pixels are not uint8; uint8 pixels stay as they are.
        grey_range: intensities that become 0 and 255, linear between.
    """
    if grey_range is None and pixels.dtype == np.uint8:
        return pixels
    low, high = grey_range or percentile_range(pixels, percentiles)
    if not high > low:
        return np.zeros(pixels.shape, np.uint8)
    values: np.ndarray = pixels.astype(np.float64 if pixels.dtype.itemsize > 2 else np.float32)
    if pixels.dtype.kind == "f":
        values = np.nan_to_num(values, copy=False, nan=low, posinf=low, neginf=low)
    # In place: new arrays would cost more than the arithmetic, and a table of all values no less.
    np.multiply(np.subtract(values, low, out=values), 255.0 / (high - low), out=values)
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    return values.astype(np.uint8)


def spec_fingerprint(spec: PreprocessConfig) -> str:
    """Return a sha256 that changes when planes could; without a source of windows, as before there was a choice."""
    return fingerprint(
        {name: value for name, value in spec.facts().items() if (name, value) != ("window_source", "file")}
    )
