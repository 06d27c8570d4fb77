"""TIFF and PNG of more than 8 bits: all samples, photometrics, orientations and ways to store them."""

import struct
from io import BytesIO

import numpy as np
import pytest
from openjpeg.utils import encode_array
from PIL import Image

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import raster
from brainscale.reading.formats.frame import Frame
from brainscale.reading.preprocess import to_grey
from tests.support.files import encoded
from tests.support.head import by_percentiles, difference, head, outside, scaled
from tests.support.tiff import png16, tiff

PERCENTILES = (0.5, 99.5)
HEAD = head(40, 64)
TYPES = ["u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
LUMA = np.array([0.299, 0.587, 0.114])


def frames(data: bytes, **limits: int) -> list[Frame]:
    return list(raster.decode(data, LimitsConfig(**limits)))


def grey(data: bytes) -> np.ndarray:
    (frame,) = frames(data)
    plane = to_grey(frame, PERCENTILES)
    assert plane.shape == (frame.height, frame.width)
    return plane


def code(data: bytes, **limits: int) -> str:
    with pytest.raises(SampleError) as raised:
        frames(data, **limits)
    return raised.value.code


def of_type(dtype: str, values: np.ndarray = HEAD) -> np.ndarray:
    """Values over most of a type's range; floats with NaN outside the head."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return np.where(outside(*values.shape[:2]) if values.ndim == 2 else False, np.nan, values * 3000).astype(kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return (values * (high / 2 - low / 2) * 0.9 + low / 2).astype(kind)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("big", [False, True])
def test_grey_of_every_sample_format(dtype: str, big_endian: bool, photometric: int, big: bool) -> None:
    values = of_type(dtype)
    expected = by_percentiles(values)
    expected = np.where(np.isnan(values), 0, 255 - expected if photometric == 0 else expected)
    assert difference(grey(tiff(values, photometric, big_endian=big_endian, big=big)), expected) <= 1


@pytest.mark.parametrize("dtype", ["u2", "u4", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("alpha", [None, 0, 1, 2])
@pytest.mark.parametrize("colour", [False, True])
def test_colour_and_alpha_of_every_sample_format(dtype: str, planar: bool, alpha: int | None, colour: bool) -> None:
    if alpha is not None and dtype[0] == "i":
        alpha = 0  # a sign makes no sense of alpha
    weights = np.stack([HEAD, HEAD[::-1] * 0.8, HEAD[:, ::-1] * 0.6], axis=-1) if colour else HEAD[..., None]
    layers = of_type(dtype, weights)
    expected_values = layers.astype(float) @ LUMA if colour else layers[..., 0].astype(float)
    share = np.ones(HEAD.shape)
    if alpha is not None:
        share = np.where(outside(*HEAD.shape), 0, np.where(np.arange(64) < 32, 0.5, 1.0))
        top = 1.0 if dtype[0] == "f" else float(np.iinfo(dtype).max)
        layers = np.concatenate([layers, (share * top).astype(dtype)[..., None]], axis=-1)
    data = tiff(layers, 2 if colour else 1, extra=() if alpha is None else (alpha,), planar=planar)
    share = {None: share * 0 + 1, 0: share * 0 + 1, 1: np.where(share > 0, 1.0, 0.0), 2: share}[alpha]
    expected = np.rint(by_percentiles(expected_values, share > 0) * share).astype(np.uint8)
    assert difference(grey(data), expected) <= 1


LAYOUTS = [
    {"rows": 7},
    {"rows": 1},
    {"tile": (16, 16)},
    {"tile": (16, 48)},
    {"rows": 7, "planar": True},
    {"tile": (32, 16), "planar": True},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("dtype", "predictor"), [("u2", 1), ("u2", 2), ("i4", 2), ("f4", 1), ("f4", 2), ("f2", 3), ("f4", 3), ("f8", 3)]
)
def test_strips_tiles_planes_and_predictors_give_the_same_samples(
    layout: dict[str, object], deflate: bool, big_endian: bool, dtype: str, predictor: int
) -> None:
    layers = np.random.default_rng(0).normal(0, 9000, (40, 50, 3))
    layers = (np.abs(layers) if dtype[0] == "u" else layers).astype(dtype)
    options = {**layout, "deflate": deflate, "big_endian": big_endian, "predictor": predictor}
    (frame,) = frames(tiff(layers, 2, **options))
    assert np.allclose(frame.pixels, layers.astype(float) @ LUMA)
    (frame,) = frames(tiff(layers[..., 0], **options))
    assert np.array_equal(frame.pixels, layers[..., 0])


COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_pillow_and_libtiff_read_the_same(compression: str, predictor: int, mode: str) -> None:
    values = np.rint(HEAD * 30_000)
    image = {
        "I;16": Image.fromarray(values.astype("<u2")),
        "I;16B": Image.frombytes("I;16B", (64, 40), values.astype(">u2").tobytes()),
        "I": Image.fromarray(values.astype(np.int32) * 1000 - 9_000_000),
        "F": Image.fromarray(HEAD.astype(np.float32)),
    }[mode]
    info = {317: predictor} if compression in COMPRESSIONS[1:4] + COMPRESSIONS[5:] else {}
    try:
        data = encoded(image, "TIFF", compression=compression, tiffinfo=info)
    except (OSError, KeyError, RuntimeError):
        pytest.skip(f"NOT TESTED: this Pillow does not write {compression} of {mode}")
    (frame,) = frames(data)
    assert np.array_equal(frame.pixels, np.asarray(image))
    assert np.array_equal(frame.pixels, np.asarray(Image.open(BytesIO(data))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF 8", "TIFF 16", "TIFF 16 alpha", "TIFF 8 LZW", "PNG 8", "PNG 16", "JPEG"])
def test_every_orientation_is_shown_upright_and_says_so_in_its_size(orientation: int, kind: str) -> None:
    shown = np.rint(HEAD * 255).astype(np.uint8)
    # How each orientation stores what is shown: TIFF 6.0, tag 274.
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    stored = np.ascontiguousarray(stored)
    exif = Image.Exif()
    exif[274] = orientation
    deep = stored.astype(np.uint16) * 100
    match kind:
        case "TIFF 8":
            data = tiff(stored, orientation=orientation)
        case "TIFF 16":
            data = tiff(deep, orientation=orientation)
        case "TIFF 16 alpha":
            data = tiff(np.dstack([deep, np.full_like(deep, 65535)]), extra=(2,), orientation=orientation)
        case "TIFF 8 LZW":
            data = encoded(Image.fromarray(stored), "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
        case "PNG 8":
            data = encoded(Image.fromarray(stored), "PNG", exif=exif)
        case "PNG 16":
            data = png16(np.dstack([deep] * 3), eXIf=exif.tobytes().removeprefix(b"Exif\0\0"))
        case "JPEG":
            data = encoded(Image.fromarray(stored), "JPEG", quality=97, exif=exif)
    (frame,) = frames(data)
    assert (frame.width, frame.height) == (64, 40)
    expected = by_percentiles(shown) if "16" in kind else shown
    assert difference(grey(data), expected) <= (20 if kind == "JPEG" else 1)


@pytest.mark.parametrize("photometric", range(11))
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_every_photometric_is_read_or_refused_but_never_shown_wrong(photometric: int, dtype: str, samples: int) -> None:
    values = of_type(dtype, np.stack([HEAD] * samples, axis=-1))
    count = {0: 1, 1: 1, 2: 3, 5: 4}.get(photometric)
    supported = (
        count == samples and not (photometric == 5 and dtype == "f4") and not (dtype == "u1" and photometric > 2)
    )
    data = tiff(values, photometric)
    if not supported:
        try:
            shown = frames(data)
        except SampleError as error:
            assert error.code in ("unsupported_format", "corrupt")  # noqa: PT017
        else:
            assert len(shown) == 1
            assert dtype == "u1" or photometric in (1, 2)
        return
    luma = values[..., 0].astype(float)
    if photometric == 5:
        luma = (65535 - luma) * (1 - luma / 65535)
    if dtype == "u1":
        expected = values[..., 0] if photometric else 255 - values[..., 0]
    else:
        expected = by_percentiles(luma) if photometric else 255 - by_percentiles(luma)
    assert difference(grey(data), expected) <= 1


@pytest.mark.parametrize("kind", ["LAB", "complex", "24 bits", "24-bit float", "JPEG", "palette 16"])
def test_other_kinds_of_pixels_are_refused(kind: str) -> None:
    values = of_type("u2")
    match kind:
        case "LAB":
            data = encoded(Image.fromarray(np.zeros((4, 4, 3), np.uint8), "RGB"), "TIFF")
            data = tiff(np.zeros((4, 4, 3), np.uint8), 8)
        case "complex":
            data = tiff(values, sample_format=6)
        case "24 bits":
            data = tiff(np.repeat(values[:, :30], 3, axis=1).astype("u1"), bits=24)
        case "24-bit float":
            data = tiff(values.astype("u1"), sample_format=3)
        case "JPEG":
            data = tiff(values).replace(struct.pack("<HHII", 259, 3, 1, 1), struct.pack("<HHII", 259, 3, 1, 7))
        case "palette 16":
            data = tiff(values, 3)
    assert code(data) == "unsupported_format"


def test_pages_of_different_kinds_are_frames() -> None:
    values = [of_type("f8"), np.rint(HEAD * 255).astype(np.uint8), of_type("u2")]
    images = [Image.fromarray(values[1]), Image.fromarray(values[2])]
    data = bytearray(encoded(images[0], "TIFF", save_all=True, append_images=images[1:]))
    last = int.from_bytes(data[4:8], "little")
    first = len(data) + len(data) % 2
    page = tiff(values[0])
    moved = bytearray(page)
    # A page of float64 comes first: its offsets move with it.
    count = int.from_bytes(page[8:10], "little")
    for entry in range(10, 10 + 12 * count, 12):
        tag, _, values_count, value = struct.unpack_from("<HHII", page, entry)
        if tag == 273 or values_count * 4 > 4:
            struct.pack_into("<I", moved, entry + 8, value + first)
    struct.pack_into("<I", moved, 10 + 12 * count, last)
    struct.pack_into("<I", data, 4, first + 8)
    decoded = frames(bytes(data.ljust(first, b"\0") + moved))
    assert [frame.number for frame in decoded] == [0, 1, 2]
    for frame, expected in zip(decoded, values, strict=True):
        assert np.array_equal(frame.pixels, expected, equal_nan=expected.dtype.kind == "f")
    assert code(bytes(data.ljust(first, b"\0") + moved), frames=2) == "too_many_frames"
    assert code(bytes(data.ljust(first, b"\0") + moved), voxels=6000) == "too_many_pixels"


def test_deep_tiffs_are_limited_and_damage_is_an_error() -> None:
    data = tiff(of_type("f8"))
    assert code(data, pixels=100) == "too_many_pixels"
    for cut in (5, 9, 60, len(data) // 2, len(data) - 1):
        assert code(data[:cut]) in ("truncated", "corrupt")
    assert code(tiff(of_type("u2"), deflate=True)[:-300]) in ("truncated", "corrupt")
    loop = bytearray(tiff(of_type("u2")))
    struct.pack_into("<I", loop, 10 + 12 * int.from_bytes(loop[8:10], "little"), 8)
    assert len(frames(bytes(loop))) == 1


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
@pytest.mark.parametrize("opaque", [False, True])
def test_png_of_16_bits_keeps_all_of_them(samples: int, opaque: bool) -> None:
    deep = np.rint(HEAD * 3500).astype(np.uint16)
    share = np.where(opaque | ~outside(40, 64), np.where(opaque | (np.arange(64) > 20), 1.0, 0.25), 0.0)
    alpha = [np.rint(share * 65535).astype(np.uint16)] if samples % 2 == 0 else []
    data = png16(np.dstack([deep] * (samples - len(alpha)) + alpha))
    share = share if alpha else np.ones_like(share)
    expected = np.rint(by_percentiles(deep, share > 0) * share).astype(np.uint8)
    assert difference(grey(data), expected) <= 1


@pytest.mark.parametrize("samples", [1, 3])
def test_a_png_of_16_bits_with_a_transparent_colour(samples: int) -> None:
    deep = np.rint(HEAD * 3500).astype(np.uint16)
    deep[outside(40, 64)] = 60_000
    data = png16(np.dstack([deep] * samples), tRNS=struct.pack(">H", 60_000) * samples)
    assert difference(grey(data), by_percentiles(deep, ~outside(40, 64))) <= 1


def test_png_of_fewer_bits_and_a_palette_with_a_transparent_colour() -> None:
    values = np.rint(HEAD * 255).astype(np.uint8)
    assert difference(grey(encoded(Image.fromarray(values > 100), "PNG")), np.where(values > 100, 255, 0)) == 0
    palette = Image.new("P", (64, 40))
    palette.putpalette([min(255, 2 * level) for level in range(256) for _ in range(3)])
    palette.frombytes((values // 2).tobytes())
    expected = np.where(values // 2 == 127, 0, np.minimum(255, values // 2 * 2))
    assert difference(grey(encoded(palette, "PNG", transparency=127)), expected) <= 1


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_jpeg_2000_keeps_more_than_8_bits(bits: int, samples: int) -> None:
    deep = np.rint(HEAD * (2**bits - 1) * 0.2).astype(np.uint16)
    layers = deep if samples == 1 else np.dstack([deep] * 3 + [np.full_like(deep, 2**bits - 1)] * (samples - 3))
    data = bytes(encode_array(layers, bits_stored=bits, photometric_interpretation=int(samples == 3)))
    (frame,) = frames(data)
    assert difference(to_grey(frame, PERCENTILES), by_percentiles(deep)) <= 1


def test_an_animation_of_16_bits_is_refused() -> None:
    deep = np.zeros((8, 8, 3), np.uint16)
    control = struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0)
    data = png16(deep, acTL=struct.pack(">II", 2, 0), fcTL=control)
    assert code(data) in ("unsupported_format", "corrupt")


def test_a_large_tiff_of_8_bits_is_still_pillows() -> None:
    values = np.rint(HEAD * 255).astype(np.uint8)
    (frame,) = frames(tiff(values))
    assert frame.mode == "L"
    assert np.array_equal(frame.pixels, values)
    assert difference(grey(tiff(255 - values, 0)), values) == 0
    assert difference(scaled(values, 0, 255), values) == 0
