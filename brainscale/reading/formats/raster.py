"""JPEG, PNG, BMP, TIFF, GIF, WebP and JPEG 2000 through Pillow: bytes → grey frames, as a person would see them.

Orientation is applied, palettes are looked up, transparency becomes background (black), colour becomes
luminance (ITU-R 601-2), and intensities of more than 8 bits stay as they are: TIFFs of such are read in `tiff`, and
the samples of PNG and JPEG 2000, of which Pillow keeps 8 bits, here. Each page of a TIFF and each picture of an
animation is a frame.
"""

import io
import warnings
from collections.abc import Iterator
from math import prod

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import tiff
from brainscale.reading.formats.codestream import codestream_header
from brainscale.reading.formats.frame import Frame, one_line
from brainscale.reading.formats.recognition import RASTER_FORMATS, TIFF
from brainscale.reading.formats.samples import luminance, opacity_of, upright
from brainscale.reading.libraries import load

QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def decode(data: bytes, limits: LimitsConfig, min_side: int | None = None) -> Iterator[Frame]:
    """Decode every frame of a file.

    Args:
        data: the encoded bytes.
        limits: larger images are refused before decoding.
        min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as neither side is shorter; None
            for the whole size.

    Raises:
        SampleError: `too_many_pixels`, `too_many_frames`, `empty_image`, `truncated`, `unsupported_format` or
            `corrupt`.
    """
    pages: list[tiff.Page] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is checked here, or of harmless metadata
            pages = tiff.read_pages(data, limits) if data.startswith(TIFF) else []
            if any(page.is_deep for page in pages):
                yield from _pages(data, pages, limits)
            else:
                with Image.open(io.BytesIO(data), formats=RASTER_FORMATS) as image:
                    yield from _frames(image, data, limits, min_side)
    except UnidentifiedImageError:
        if (pages and tiff.is_described(pages[0])) or codestream_header(data):
            text = f"a {'TIFF' if pages else 'JPEG'} whose kind of pixels has no decoder"
            raise SampleError("unsupported_format", text) from None
        raise SampleError("corrupt", "the header of the image cannot be read") from None
    except Image.DecompressionBombError:
        raise SampleError("too_many_pixels", f"the image exceeds limits.pixels = {limits.pixels}") from None
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (Pillow's decoders raise nearly anything on damaged bytes)
        raise SampleError("corrupt", f"the image cannot be decoded: {one_line(error)}") from None


def _pages(data: bytes, pages: list[tiff.Page], limits: LimitsConfig) -> Iterator[Frame]:
    """Decode a TIFF, some of whose pages are of more than 8 bits."""
    sizes = [(page.number(tiff.WIDTH, 0), page.number(tiff.HEIGHT, 0)) for page in pages]
    _check_frames(len(pages), max(sizes, key=prod), limits)
    for index, page in enumerate(pages):
        number = index if len(pages) > 1 else None
        if page.is_deep:
            yield tiff.deep_frame(data, page, limits, number)
        else:
            with Image.open(io.BytesIO(tiff.with_first_page(data, page)), formats=["TIFF"]) as image:
                yield _frame(image, data, limits, None, number)


def _frames(image: ImageFile, data: bytes, limits: LimitsConfig, min_side: int | None) -> Iterator[Frame]:
    # A JPEG's further pictures are a camera's previews, not scans.
    count = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
    _check_frames(count, image.size, limits)
    for number in range(count):
        if count > 1:
            image.seek(number)
        yield _frame(image, data, limits, min_side, number if count > 1 else None)


def _check_frames(count: int, size: tuple[int, int], limits: LimitsConfig) -> None:
    if count > limits.frames:
        raise SampleError("too_many_frames", f"{count} frames exceed limits.frames = {limits.frames}")
    if count * prod(size) > limits.voxels:
        text = f"{count} frames of {size[0]} × {size[1]} pixels exceed limits.voxels = {limits.voxels}"
        raise SampleError("too_many_pixels", text)


def _frame(image: ImageFile, data: bytes, limits: LimitsConfig, min_side: int | None, number: int | None) -> Frame:
    width, height = image.size
    if width * height > limits.pixels:
        raise SampleError("too_many_pixels", f"{width} × {height} pixels exceed limits.pixels = {limits.pixels}")
    if width == 0 or height == 0:
        raise SampleError("empty_image", f"an image of {width} × {height} pixels")
    mode = image.mode
    if image.format == "JPEG":
        image.draft("L" if mode in ("L", "RGB") else mode, (min_side, min_side) if min_side else image.size)
    samples = _deep_samples(image, data, number)  # first, for asking a PNG for its orientation loads it
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in QUARTER_TURNS and image.format != "TIFF":  # of a TIFF, Pillow says the size as shown
        width, height = height, width
    name, opacity = "JPEG" if image.format == "MPO" else str(image.format), None
    if samples is not None:
        samples = upright(samples, orientation)
        pixels, opacity = luminance(samples[..., : (samples.shape[-1] + 1) // 2 * 2 - 1]), _opacity(image, samples)
    else:
        pixels = _grey(image if orientation == 1 else ImageOps.exif_transpose(image))
    return Frame(pixels=pixels, format=name, mode=mode, width=width, height=height, number=number, opacity=opacity)


def _deep_samples(image: ImageFile, data: bytes, number: int | None) -> np.ndarray | None:
    """Return the samples of a PNG or JPEG 2000 of more than 8 bits, [H, W, 1 to 4]; None of all else."""
    if image.format == "JPEG2000" and image.mode in ("LA", "RGB", "RGBA"):
        header = codestream_header(data[data.find(b"\xff\x4f\xff\x51") :])
        precision = (header and header.precision) or 8
        if not 8 < precision <= 16:
            return None
        return np.asarray(load("openjpeg.utils").decode(data)) << (16 - precision)
    if image.format != "PNG" or not image.tile or not str(image.tile[0].args).endswith(";16B"):
        return None
    if number is not None:
        raise SampleError("unsupported_format", "an animation of 16 bits")
    tile, kind = image.tile[0], str(image.tile[0].args)
    if kind == "I;16B":
        return np.asarray(image, np.uint16)[..., None]
    if kind == "LA;16B":  # as many bytes as RGBA of 8 bits
        image.tile = [tile._replace(args="RGBA")]
        return np.array(image).view(">u2").astype(np.uint16)
    with Image.open(io.BytesIO(data), formats=["PNG"]) as lower:
        # Pillow keeps the first byte of each sample, or the second if it takes them for little-endian.
        lower.tile = [tile._replace(args=f"{kind[:-1]}L")]
        return np.asarray(np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower))


def _opacity(image: ImageFile, samples: np.ndarray) -> np.ndarray | None:
    """Return what the alpha of samples, or the colour that stands for transparency, shows of each pixel."""
    if samples.shape[-1] % 2 == 0:
        return opacity_of(samples[..., -1])
    if "transparency" not in image.info:
        return None
    is_shown = (samples != image.info["transparency"]).any(axis=-1)
    return opacity_of(is_shown.astype(np.float32))


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)
    if image.mode == "LAB":
        raise SampleError("unsupported_format", "no conversion of CIELab to grey")
    if image.mode == "La":
        return np.asarray(image)[..., 0]  # multiplied by its alpha already
    if image.has_transparency_data:
        grey, opacity = image.convert("RGBA").convert("LA").split()
        return np.asarray(ImageChops.multiply(grey, opacity))
    return np.asarray(image if image.mode == "L" else image.convert("L"))
