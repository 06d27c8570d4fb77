"""Every way in which DICOM stores a pixel: widths, signs, floats, bits and colours."""

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from brainscale.reading.formats.frame import percentile_range
from tests.support.dicom import PERCENTILES, PLANE, dataset, frame, frames, installed, refusal


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint32, np.int32])
def test_integers_of_every_width_and_sign_keep_their_values(dtype: type) -> None:
    stored = np.random.default_rng(2).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (5, 4), dtype)
    decoded = frame(dataset(stored))
    assert np.array_equal(decoded.pixels, stored)
    assert decoded.grey_range == percentile_range(stored, PERCENTILES)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_ignored(signed: bool) -> None:
    values = PLANE.astype(np.int16) - (2048 if signed else 0)
    stored = (values.view(np.uint16) & 0x0FFF) | np.uint16(0xA000)
    ds = dataset(stored, BitsStored=12, HighBit=11, PixelRepresentation=int(signed))
    assert np.array_equal(frame(ds).pixels, values)
    assert frame(ds).mode == "MONOCHROME2 12"


def test_overlays_are_not_burnt_in() -> None:
    plain, overlaid = dataset(PLANE), dataset(PLANE)
    for keyword, vr, value in (
        (0x60000010, "US", 6),
        (0x60000011, "US", 10),
        (0x60000040, "CS", "G"),
        (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 1),
        (0x60000102, "US", 0),
        (0x60003000, "OW", b"\xff" * 8),
    ):
        overlaid.add_new(keyword, vr, value)
    assert np.array_equal(frame(overlaid).pixels, frame(plain).pixels)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
def test_floating_point_pixels_keep_their_values(keyword: str, dtype: str) -> None:
    stored = np.linspace(-2, 7, 60).reshape(6, 10).astype(dtype)
    ds = dataset(stored)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    setattr(ds, keyword, stored.tobytes())
    assert np.array_equal(frame(ds).pixels, stored)
    assert frame(ds).grey_range == percentile_range(stored, PERCENTILES)


def test_pixels_of_one_bit_are_unpacked() -> None:
    stored = np.random.default_rng(3).integers(0, 2, (2, 8, 8), np.uint8)
    ds = dataset(stored, frames=2, BitsAllocated=1, BitsStored=1, HighBit=0)
    ds.PixelData = np.packbits(stored, axis=None, bitorder="little").tobytes()
    decoded = frames(ds)
    assert np.array_equal(np.stack([f.pixels for f in decoded]), stored)
    assert {f.grey_range for f in decoded} == {(0, 1)}


COLOURS = np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8)
GREYS = np.asarray(Image.fromarray(COLOURS).convert("L"))


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_becomes_luminance(planar: int) -> None:
    stored = COLOURS if planar == 0 else COLOURS.transpose(2, 0, 1)
    decoded = frame(dataset(COLOURS, PlanarConfiguration=planar, PixelData=stored.tobytes()))
    assert decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.pixels, GREYS)
    assert decoded.grey_range is None


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_rgb_becomes_luminance_whatever_its_planar_configuration(planar: int, syntax: str) -> None:
    ds = dataset(COLOURS)
    ds.compress(syntax, generate_instance_uid=False)
    ds.PlanarConfiguration = planar
    assert np.array_equal(frame(ds).pixels, GREYS)


def test_ybr_full_becomes_luminance() -> None:
    ybr = np.array(Image.fromarray(COLOURS).convert("YCbCr"))
    decoded = frame(dataset(ybr, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(decoded.pixels.astype(int) - GREYS).max() <= 2  # rounded to YCbCr and back
    assert decoded.mode == "YBR_FULL 8"


def test_ybr_full_422_agrees_with_rgb() -> None:
    halved, full = frame(installed("SC_ybr_full_422_uncompressed.dcm")), frame(installed("SC_rgb_dcmtk_+eb+cr.dcm"))
    assert np.mean(np.abs(halved.pixels.astype(int) - full.pixels)) < 3


def test_colour_of_16_bits_becomes_luminance() -> None:
    wide = COLOURS.astype(np.uint16) * 257
    decoded = frame(dataset(wide))
    assert np.allclose(decoded.pixels, wide @ [0.299, 0.587, 0.114])
    assert decoded.grey_range == (0, 65535)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(bits: int) -> None:
    table = np.random.default_rng(5).integers(0, 2**bits, (3, 4), f"u{bits // 8}")
    stored = PLANE.astype(np.uint8) % 12
    ds = dataset(stored, PhotometricInterpretation="PALETTE COLOR")
    for colour, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [4, 3, bits])
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.tobytes())
    painted = table.T[np.clip(stored.astype(int) - 3, 0, 3)]
    decoded = frame(ds)
    if bits == 8:
        assert np.array_equal(decoded.pixels, np.asarray(Image.fromarray(painted).convert("L")))
        assert decoded.grey_range is None
    else:
        assert np.allclose(decoded.pixels, painted @ [0.299, 0.587, 0.114])
        assert decoded.grey_range == (0, 65535)


@pytest.mark.parametrize("photometric", ["HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420"])
def test_colours_without_a_conversion_are_refused(photometric: str) -> None:
    samples = 4 if photometric in ("ARGB", "CMYK") else 3
    ds = dataset(COLOURS, PhotometricInterpretation=photometric, SamplesPerPixel=samples)
    assert refusal(ds).code == "unsupported_format"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_luminance_of_ybr_full_422_is_its_first_component(dtype: type) -> None:
    luma = np.random.default_rng(6).integers(0, 256, (8, 12)).astype(dtype)
    # Two pixels share their chroma: Y, Y, CB, CR.
    stored = np.full((8, 6, 4), 128, dtype)
    stored[..., 0], stored[..., 1] = luma[:, ::2], luma[:, 1::2]
    ds = dataset(luma, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = stored.tobytes()
    assert np.array_equal(frame(ds).pixels, luma)
