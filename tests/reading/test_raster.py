"""Images that Pillow decodes become grey frames as a person would see them."""

import numpy as np
import pytest
from PIL import Image

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import raster
from brainscale.reading.formats.frame import Frame
from brainscale.reading.preprocess import make_plane, to_uint8
from tests.support.files import GREY, encoded


def decode_one(data: bytes, limits: LimitsConfig | None = None, min_side: int | None = None) -> Frame:
    (frame,) = raster.decode(data, limits or LimitsConfig(), min_side)
    return frame


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_lossless_formats_give_the_grey_pixels(kind: str, mode: str) -> None:
    colour = Image.fromarray(GREY).convert("RGB")
    image = colour.quantize(256, dither=Image.Dither.NONE) if mode == "P" else colour.convert(mode)
    frame = decode_one(encoded(image, kind))
    assert (frame.format, frame.width, frame.height) == (kind, 64, 48)
    assert np.abs(frame.pixels.astype(int) - GREY).max() <= (2 if mode == "P" else 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_gives_nearly_the_grey_pixels(mode: str) -> None:
    frame = decode_one(encoded(Image.fromarray(GREY).convert("RGB").convert(mode), "JPEG", quality=95))
    assert frame.pixels.shape == GREY.shape
    assert np.abs(frame.pixels.astype(int) - GREY).mean() < 6


def test_a_large_jpeg_is_decoded_smaller_with_the_same_plane() -> None:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8))
    data = encoded(coarse.resize((1000, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole, small = decode_one(data), decode_one(data, min_side=128)
    assert small.pixels.size < whole.pixels.size / 4
    assert (small.width, small.height) == (1000, 1200)
    spec = PreprocessConfig(image_size=64, crop=1.0)
    difference = make_plane(whole.pixels, spec).astype(int) - make_plane(small.pixels, spec)
    assert np.abs(difference).mean() < 2


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right
    frame = decode_one(encoded(Image.fromarray(GREY), "PNG", exif=exif))
    assert (frame.width, frame.height) == (48, 64)
    assert np.array_equal(frame.pixels, np.rot90(GREY, -1))


def test_transparent_pixels_become_background() -> None:
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:4, :, 3] = 0
    frame = decode_one(encoded(Image.fromarray(pixels), "PNG"))
    assert frame.pixels[:4].max() == 0
    assert frame.pixels[4:].min() > 100


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_range_until_they_are_scaled(kind: str) -> None:
    deep = (GREY.astype(np.uint16) * 17) + 300
    frame = decode_one(encoded(Image.fromarray(deep), kind))
    assert frame.pixels.max() == deep.max()
    grey = to_uint8(frame.pixels, (0.0, 100.0))
    assert np.abs(grey.astype(int) - np.rint((deep - 300) / (deep.max() - 300) * 255)).max() <= 1


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(SampleError, match=r"64 × 48 pixels exceed limits\.pixels = 100"):
        decode_one(encoded(Image.fromarray(GREY), "PNG"), LimitsConfig(pixels=100))


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_each_page_is_a_frame(kind: str) -> None:
    pages = [Image.fromarray(np.roll(GREY, 8 * i, axis=1)) for i in range(3)]
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:], lossless=True)
    frames = list(raster.decode(data, LimitsConfig()))
    assert [frame.number for frame in frames] == [0, 1, 2]
    for frame, page in zip(frames, pages, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.asarray(page)).max() <= 1
    with pytest.raises(SampleError, match=r"too_many_frames: 3 frames exceed limits\.frames = 2"):
        list(raster.decode(data, LimitsConfig(frames=2)))
