"""JPEG, PNG, BMP and TIFF through Pillow: bytes → one grey frame, as a person would see it.

Orientation is applied, a palette is looked up, transparency becomes background (black), colour becomes
luminance (ITU-R 601-2), and 16-bit or float intensities are kept as they are.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from brainscale.errors import SampleError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded image.

    Attributes:
        pixels: uint8, uint16, int32 or float32 [H, W], grey.
        format: name of the file format.
        width: of the stored image as shown, pixels; `pixels` may be a smaller decoding of it.
        height: as width.
    """

    pixels: np.ndarray
    format: str
    width: int
    height: int


def recognises(head: bytes) -> bool:
    """Whether a file that begins so is one of these formats."""
    return head.startswith(_MAGIC)


def decode(data: bytes, max_pixels: int, enough: int | None = None) -> Frame:
    """Decode one image.

    Args:
        data: the encoded bytes.
        max_pixels: refuse larger images before decoding.
        enough: a side that suffices: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as both sides stay
            at or above it.

    Raises:
        SampleError: `too_many_pixels`, `empty_image`, `multi_frame` or `corrupt`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is checked here, or of harmless metadata
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _frame(image, max_pixels, enough)
    except UnidentifiedImageError:
        raise SampleError("corrupt", "the header of the image cannot be read") from None
    except Image.DecompressionBombError:
        raise SampleError("too_many_pixels", f"more than {max_pixels} pixels") from None
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (Pillow's decoders raise nearly anything on damaged bytes)
        raise SampleError("corrupt", f"the image cannot be decoded: {_one_line(error)}") from None


def _frame(image: Image.Image, max_pixels: int, enough: int | None) -> Frame:
    width, height = image.size
    if width * height > max_pixels:
        raise SampleError("too_many_pixels", f"{width} × {height} is more than {max_pixels} pixels")
    if width == 0 or height == 0:
        raise SampleError("empty_image", f"{width} × {height} holds no pixel")
    name = str(image.format)
    if name == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
        raise SampleError("multi_frame", f"{pages} pages: only files of one image are read")
    if name == "JPEG":
        image.draft("L" if image.mode in ("L", "RGB") else image.mode, (enough, enough) if enough else image.size)
    if image.getexif().get(ExifTags.Base.Orientation) in QUARTER_TURNS:
        width, height = height, width
    return Frame(pixels=_grey(ImageOps.exif_transpose(image)), format=name, width=width, height=height)


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        black = Image.new("RGBA", opaque.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, opaque).convert("L"))
    return np.asarray(image.convert("L"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
