"""Recognise an image again: hashes of the whole image and of the head, and a small signature of the head.

The hashes propose near duplicates, also with another margin; the signature confirms them. All three are made from
low frequencies only, of 16 × 16 values at most: enough to tell two scans apart, too little to show a face.
"""

import math

import numpy as np
from PIL import Image, ImageFilter

SIDE = 16
"""Rows and columns of a signature."""
HASH_SIDE = 8
"""Frequencies in each direction that a hash describes."""
BITS = HASH_SIDE**2
MIN_CONTRAST = 8
"""Grey levels: images with less contrast all look alike, so they have neither hash nor signature."""

AIR = 0.5
"""What is darker than this share of the way from black to Otsu's threshold is air."""

_SEARCH_SIDE = 128  # pixels of the longer side while the head is looked for
_FLAT = 24  # grey levels: a row or column with less contrast belongs to a frame around the image
_SMALLEST = 32  # pixels: what would be cropped smaller than this is left whole
_SHORT = 0.1  # of the longest row or column of the head: shorter ones are text or noise

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""

COSINES = np.cos(np.pi / SIDE * np.outer(np.arange(SIDE), np.arange(SIDE) + 0.5)).astype(np.float32)
"""Basis of the discrete cosine transform (type II, not normalised), frequency × position."""


def perceptual_hash(grey: np.ndarray) -> str | None:
    """Return the hash of a whole image, 16 hex digits; None without contrast.

    Args:
        grey: uint8 [H, W].
    """
    if np.ptp(grey) < MIN_CONTRAST:
        return None
    return hash_thumbnail(_shrink(Image.fromarray(grey), (0, 0, grey.shape[1], grey.shape[0])))


def make_signature(grey: np.ndarray) -> np.ndarray | None:
    """Return the head of an image in 16 × 16 values; None without contrast.

    Margins are left out and intensities are replaced by their ranks within the head's box, so that neither another
    margin nor another brightness, contrast or gamma changes the signature by much.

    Args:
        grey: uint8 [H, W].

    Returns:
        uint8 [16, 16].
    """
    if np.ptp(grey) < MIN_CONTRAST:
        return None
    image, box = Image.fromarray(grey), find_head(grey)
    edges = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    counts = np.array(image.crop(edges).histogram(), np.float64)
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    return _shrink(image.point(np.rint(255 * ranks).astype(int).tolist()), box)


def hash_thumbnail(thumbnail: np.ndarray) -> str:
    """Return 64 bits in 16 hex digits: the signs of the lowest frequencies.

    A flip or quarter turn of the image only inverts or permutes the bits: see `dataset.candidates`.

    Args:
        thumbnail: [16, 16], of the whole image or of the head.
    """
    spectrum = COSINES @ thumbnail.astype(np.float32) @ COSINES.T
    bits = spectrum[:HASH_SIDE, :HASH_SIDE] > 0
    bits[0, 0] = False  # the mean, which is always positive
    return np.packbits(bits).tobytes().hex()


def find_head(grey: np.ndarray) -> Box:
    """Return the box around the head in an image, or around the whole image if nothing stands out.

    Uniform frames are cropped first, whatever their colour. Then the box reaches from the first to the last row and
    column of the head; short ones, such as text beside it, do not count.

    Args:
        grey: uint8 [H, W].
    """
    height, width = grey.shape
    scale = _SEARCH_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
    top, bottom, left, right = _crop_frame(np.asarray(image))
    inside = image.crop((left, top, right, bottom)).filter(ImageFilter.GaussianBlur(1))
    pixels = np.asarray(inside)
    darkest = float(pixels.min())
    head = pixels > darkest + AIR * (otsu_threshold(pixels) - darkest)
    (first_row, last_row), (first_column, last_column) = _extent(head.sum(axis=1)), _extent(head.sum(axis=0))
    across, down = width / size[0], height / size[1]
    return (
        (left + first_column) * across,
        (top + first_row) * down,
        (left + last_column) * across,
        (top + last_row) * down,
    )


def _shrink(image: Image.Image, box: Box) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box, reducing_gap=4))


def _crop_frame(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of an image without the uniform rows and columns around it."""
    top, bottom, left, right = 0, pixels.shape[0], 0, pixels.shape[1]
    while min(bottom - top, right - left) >= _SMALLEST:
        if _is_flat(pixels[top, left:right]):
            top += 1
        elif _is_flat(pixels[bottom - 1, left:right]):
            bottom -= 1
        elif _is_flat(pixels[top:bottom, left]):
            left += 1
        elif _is_flat(pixels[top:bottom, right - 1]):
            right -= 1
        else:
            return top, bottom, left, right
    return 0, pixels.shape[0], 0, pixels.shape[1]


def _is_flat(line: np.ndarray) -> bool:
    """Return whether a row or column is uniform, but for a few pixels at its ends and of noise."""
    ordered, outliers = np.sort(line), max(2, len(line) // 16)
    return int(ordered[-outliers]) - int(ordered[outliers - 1]) <= _FLAT


def otsu_threshold(pixels: np.ndarray) -> float:
    """Return the grey level that parts dark from bright pixels best (Otsu, IEEE SMC 9:62, 1979)."""
    counts = np.bincount(pixels.ravel(), minlength=256).astype(np.float64)
    below, levels = np.cumsum(counts), np.arange(256)
    sums = np.cumsum(counts * levels)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * above)
    return float(np.nanargmax(np.where(above > 0, between, -1.0)))


def _extent(lengths: np.ndarray) -> tuple[int, int]:
    """Return the first of the long rows or columns and the one after the last."""
    long = np.flatnonzero(lengths > _SHORT * lengths.max())
    return (int(long[0]), int(long[-1]) + 1) if long.size else (0, len(lengths))
