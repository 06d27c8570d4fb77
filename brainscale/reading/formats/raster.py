"""JPEG, PNG, BMP, TIFF, GIF, WebP and JPEG 2000 through Pillow: bytes → grey frames, as a person would see them.

Orientation is applied, palettes are looked up, transparency becomes background (black), colour becomes
luminance (ITU-R 601-2), and 16-bit or float intensities stay as they are. Each page of a TIFF and each picture
of an animation is a frame.
"""

import io
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.frame import Frame, one_line

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000")
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_MAGIC: tuple[bytes, ...] = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"II+\x00",
    b"MM\x00+",
)
_MAGIC += (b"GIF87a", b"GIF89a", b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


def recognises(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes is in one of these formats."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def decode(data: bytes, limits: LimitsConfig, min_side: int | None = None) -> Iterator[Frame]:
    """Decode every frame of a file.

    Args:
        data: the encoded bytes.
        limits: larger images are refused before decoding.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as neither side is shorter; None
            for the whole size.

    Raises:
        SampleError: `too_many_pixels`, `too_many_frames`, `empty_image` or `corrupt`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is checked here, or of harmless metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                yield from _frames(image, limits, min_side)
    except UnidentifiedImageError:
        raise SampleError("corrupt", "the header of the image cannot be read") from None
    except Image.DecompressionBombError:
        raise SampleError("too_many_pixels", f"the image exceeds limits.pixels = {limits.pixels}") from None
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (Pillow's decoders raise nearly anything on damaged bytes)
        raise SampleError("corrupt", f"the image cannot be decoded: {one_line(error)}") from None


def _frames(image: Image.Image, limits: LimitsConfig, min_side: int | None) -> Iterator[Frame]:
    # A JPEG's further pictures are a camera's previews, not scans.
    count = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
    if count > limits.frames:
        raise SampleError("too_many_frames", f"{count} frames exceed limits.frames = {limits.frames}")
    if count * image.width * image.height > limits.voxels:
        size = f"{count} frames of {image.width} × {image.height} pixels"
        raise SampleError("too_many_pixels", f"{size} exceed limits.voxels = {limits.voxels}")
    for number in range(count):
        if count > 1:
            image.seek(number)
        yield _frame(image, limits, min_side, number if count > 1 else None)


def _frame(image: Image.Image, limits: LimitsConfig, min_side: int | None, number: int | None) -> Frame:
    width, height = image.size
    if width * height > limits.pixels:
        raise SampleError("too_many_pixels", f"{width} × {height} pixels exceed limits.pixels = {limits.pixels}")
    if width == 0 or height == 0:
        raise SampleError("empty_image", f"an image of {width} × {height} pixels")
    mode = image.mode
    if image.format == "JPEG":
        image.draft("L" if mode in ("L", "RGB") else mode, (min_side, min_side) if min_side else image.size)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in QUARTER_TURNS:
        width, height = height, width
    upright = image if orientation == 1 else ImageOps.exif_transpose(image)
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return Frame(pixels=_grey(upright), format=name, mode=mode, width=width, height=height, number=number)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if image.has_transparency_data:
        grey, opacity = image.convert("RGBA").convert("LA").split()
        return np.asarray(ImageChops.multiply(grey, opacity))
    return np.asarray(image if image.mode == "L" else image.convert("L"))
