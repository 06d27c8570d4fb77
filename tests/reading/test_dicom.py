"""DICOM objects made here and those that pydicom brings: frames with exact intensities, or a SampleError."""

import collections
import functools
import logging
import os
import struct
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import dicom
from brainscale.reading.formats.frame import Frame, percentile_range

INSTALLED = Path(pydicom.__file__).parent / "data" / "test_files"
LIMITS, PERCENTILES = LimitsConfig(), (1.0, 99.0)
NAME = "Doe^John SECRET 19700101"
PLANE = np.random.default_rng(0).integers(0, 4096, (6, 10), np.uint16)


def installed(name: str) -> bytes:
    path = INSTALLED / name
    if not path.exists():
        pytest.skip(f"NOT TESTED: this pydicom brings no {name}")
    return path.read_bytes()


def dataset(pixels: np.ndarray, frames: int | None = None, **elements: object) -> Dataset:
    """An MR image of [H, W], [H, W, 3] or, with `frames`, [N, H, W] pixels."""
    bits, colour = 8 * pixels.itemsize, pixels.shape[-1] == 3
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = MRImageStorage, "1.2.3.4", "1.2.3"
    ds.PatientID, ds.PatientName = NAME, NAME
    ds.Rows, ds.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    if frames:
        ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def written(ds: Dataset, preamble: bool = True) -> bytes:
    out = BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=preamble)
    return out.getvalue()


def item(**elements: object) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def lut(first: int, entries: list[int], bits: int) -> Dataset:
    ds = Dataset()
    ds.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    ds.add_new("LUTData", "US", entries)
    return ds


def frames(data: bytes | Dataset, limits: LimitsConfig = LIMITS) -> list[Frame]:
    return list(dicom.decode(data if isinstance(data, bytes) else written(data), limits, PERCENTILES))


def frame(data: bytes | Dataset) -> Frame:
    (only,) = frames(data)
    return only


def refusal(data: bytes | Dataset, limits: LimitsConfig = LIMITS) -> SampleError:
    with pytest.raises(SampleError) as caught:
        frames(data, limits)
    return caught.value


def outcome(data: bytes) -> str:
    """An error's code and text, or nothing."""
    try:
        frames(data)
    except SampleError as error:
        return str(error)
    return ""


def encapsulated(ds: Dataset, codes: list[bytes], syntax: str) -> Dataset:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(codes)
    ds["PixelData"].is_undefined_length = True
    return ds


# What a file is known by


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_without_preamble_is_recognised_and_decoded(syntax: str) -> None:
    ds = dataset(PLANE if syntax != ExplicitVRBigEndian else PLANE.byteswap())
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    del ds.file_meta
    out = BytesIO()
    pydicom.dcmwrite(out, ds, implicit_vr=implicit, little_endian=little)
    assert dicom.recognises(out.getvalue()[:160])
    assert np.array_equal(frame(out.getvalue()).pixels, PLANE)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes_give_the_same_pixels(syntax: str) -> None:
    ds = dataset(PLANE if syntax != ExplicitVRBigEndian else PLANE.byteswap())
    ds.file_meta.TransferSyntaxUID = syntax
    assert dicom.recognises(written(ds)[:160])
    assert np.array_equal(frame(ds).pixels, PLANE)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"DICM",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x89PNG\r\n\x1a\n",
        b"BM\x36\x00",
        b"II*\x00\x08\x00\x00\x00",
        b"MM\x00*\x00\x00\x00\x08",
        struct.pack("<i", 348),
        struct.pack(">i", 348),
        struct.pack("<i", 540),
        b"PK\x03\x04\x14\x00",
        b"\x1f\x8b\x08\x00",
        b"patient,label\n1,2\n",
        b"\x02\x00\x02\x00",
        b"\x08\x00\x00\x00",
        b"\x00\x08\x00\x00",
    ],
)
@pytest.mark.parametrize("rest", [b"\x00", b" ", b"\xff", b"a"])
def test_other_files_are_not_recognised(head: bytes, rest: bytes) -> None:
    assert not dicom.recognises(head)
    assert not dicom.recognises(head.ljust(160, rest))


# Transfer syntaxes


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_lossless_compression_changes_nothing(syntax: str, dtype: type) -> None:
    stored = np.random.default_rng(1).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (2, 48, 64), dtype)
    ds = dataset(stored, frames=2)
    ds.compress(syntax, generate_instance_uid=False)
    decoded = frames(ds)
    assert [f.number for f in decoded] == [0, 1]
    assert np.array_equal(np.stack([f.pixels for f in decoded]), stored)


@pytest.mark.parametrize(
    "other",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_installed_pairs_of_one_image_agree(other: str) -> None:
    plain, compressed = frame(installed("MR_small.dcm")), frame(installed(other))
    assert np.array_equal(compressed.pixels, plain.pixels)
    assert compressed.grey_range == plain.grey_range


def jpeg_lossless(plane: np.ndarray, bits: int) -> bytes:
    """ITU-T T.81 process 14, predictor 1; every category has a Huffman code of 5 bits."""
    previous = plane.astype(int)
    predicted = np.roll(previous, 1, axis=1)
    predicted[1:, 0] = previous[:-1, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    written_bits = ""
    for difference in (previous - predicted).reshape(-1).tolist():
        category = abs(difference).bit_length()
        rest = difference if difference > 0 else difference + 2**category - 1
        written_bits += f"{category:05b}" + (f"{rest:0{category}b}" if category else "")
    written_bits += "1" * (-len(written_bits) % 8)
    scan = int(written_bits, 2).to_bytes(len(written_bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = plane.shape
    sof = struct.pack(">HHBHHB3B", 0xFFC3, 11, bits, rows, columns, 1, 1, 0x11, 0)
    dht = struct.pack(">HHB16B", 0xFFC4, 36, 0, *([0] * 4 + [17] + [0] * 11)) + bytes(range(17))
    sos = struct.pack(">HHB2B3B", 0xFFDA, 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + sof + dht + sos + scan + b"\xff\xd9"


def test_jpeg_lossless_is_exact() -> None:
    ds = dataset(PLANE, BitsStored=12, HighBit=11)
    assert np.array_equal(frame(encapsulated(ds, [jpeg_lossless(PLANE, 12)], JPEGLosslessSV1)).pixels, PLANE)


def test_jpeg_of_12_bits_is_decoded() -> None:
    decoded = frame(installed("JPGExtended.dcm"))
    assert decoded.mode == "MONOCHROME2 12"
    assert (decoded.pixels[420, 140], decoded.pixels[230, 120]) == (244, 95)  # as DCMTK decodes it


def test_a_codestream_of_other_signedness_is_decoded() -> None:
    assert frame(installed("J2K_pixelrep_mismatch.dcm")).mode == "MONOCHROME2 13"


def test_a_syntax_without_decoder_is_named() -> None:
    error = refusal(encapsulated(dataset(PLANE), [b"\0" * 8], MPEG2MPML))
    assert (error.code, error.text) == (
        "unsupported_transfer_syntax",
        "no decoder for MPEG2 Main Profile / Main Level",
    )
    data = written(dataset(PLANE)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    error = refusal(data)
    assert error.text == "no decoder for an unknown transfer syntax"


def test_compressed_pixels_without_a_named_syntax_are_refused() -> None:
    ds = encapsulated(dataset(PLANE), [b"\0" * 8], RLELossless)
    data = written(ds)
    bare = data[data.index(b"\x08\x00\x16\x00UI") :]
    assert dicom.recognises(bare[:160])
    assert refusal(bare).code == "unsupported_transfer_syntax"


def test_deflated() -> None:
    ds = dataset(PLANE)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(frame(ds).pixels, PLANE)


def test_a_deflate_bomb_is_refused() -> None:
    ds = dataset(PLANE)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PixelData = b"\0" * (3 * 2**20)
    data = written(ds)
    assert len(data) < 2**14
    assert refusal(data, LimitsConfig(file_mib=2)).code == "compression_bomb"


# From stored values to limits


def test_percentiles_where_no_window_is_named() -> None:
    decoded = frame(dataset(PLANE))
    assert decoded.grey_range == percentile_range(PLANE, PERCENTILES)
    assert (decoded.format, decoded.mode, decoded.width, decoded.height) == ("DICOM", "MONOCHROME2 16", 10, 6)
    assert (decoded.number, decoded.inverted) == (None, False)


def test_frames_share_their_percentiles() -> None:
    stored = np.stack([PLANE, PLANE // 7, PLANE + 9])
    decoded = frames(dataset(stored, frames=3))
    assert [f.number for f in decoded] == [0, 1, 2]
    assert {f.grey_range for f in decoded} == {percentile_range(stored, PERCENTILES)}


def test_8_bit_data_stand_as_they_are() -> None:
    stored = PLANE.astype(np.uint8)
    decoded = frame(dataset(stored))
    assert decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.pixels, stored)
    assert decoded.grey_range is None
    assert frame(dataset(stored, RescaleSlope=1, RescaleIntercept=0)).grey_range is None
    assert frame(dataset(stored % 64, BitsStored=6, HighBit=5)).grey_range == (0, 63)
    assert frame(dataset(stored.astype(np.uint16), BitsStored=8, HighBit=7)).grey_range == (0, 255)


@pytest.mark.parametrize("rescale", [{"RescaleSlope": "2.5", "RescaleIntercept": "-1024"}])
def test_rescaling(rescale: dict[str, str]) -> None:
    decoded = frame(dataset(PLANE, **rescale))
    assert np.array_equal(decoded.pixels, PLANE * 2.5 - 1024)
    assert decoded.grey_range == percentile_range(PLANE * 2.5 - 1024, PERCENTILES)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"WindowCenter": 100, "WindowWidth": 51}, (74.5, 124.5)),
        ({"WindowCenter": 100, "WindowWidth": 51, "VOILUTFunction": "LINEAR"}, (74.5, 124.5)),
        ({"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "LINEAR_EXACT"}, (75, 125)),
        ({"WindowCenter": [100, 7], "WindowWidth": [51, 9]}, (74.5, 124.5)),
    ],
)
def test_a_window_becomes_the_limits(elements: dict[str, object], expected: tuple[float, float]) -> None:
    decoded = frame(dataset(PLANE, **elements))
    assert decoded.grey_range == expected
    assert np.array_equal(decoded.pixels, PLANE)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100},
        {"WindowWidth": 100},
        {"RescaleSlope": 0, "RescaleIntercept": 5},
        {"RescaleSlope": 2},
    ],
)
def test_windows_and_slopes_without_sense_are_ignored(elements: dict[str, object]) -> None:
    decoded = frame(dataset(PLANE, **elements))
    assert np.array_equal(decoded.pixels, PLANE)
    assert decoded.grey_range == percentile_range(PLANE, PERCENTILES)


@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("garbage", [b"wide", b"nan ", b"inf ", b"1,5 ", b"\xff\xfe", b"\\\\\\ "])
def test_numbers_that_are_none_are_ignored(keyword: str, garbage: bytes) -> None:
    ds = dataset(PLANE, WindowCenter=100, WindowWidth=50, RescaleSlope=1, RescaleIntercept=0)
    setattr(ds, keyword, "8765")
    decoded = frame(written(ds).replace(b"8765", garbage.ljust(4)))
    assert np.array_equal(decoded.pixels, PLANE)


def test_a_sigmoid_window() -> None:
    decoded = frame(dataset(PLANE, WindowCenter=2000, WindowWidth=800, VOILUTFunction="SIGMOID"))
    assert decoded.grey_range == (0, 255)
    assert np.allclose(decoded.pixels, 255 / (1 + np.exp(-4 * (PLANE - 2000.0) / 800)))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_voi_lut_comes_before_a_window(syntax: str) -> None:
    ds = dataset(PLANE if syntax != ExplicitVRBigEndian else PLANE.byteswap(), WindowCenter=9, WindowWidth=9)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.VOILUTSequence = [lut(1000, list(range(2048)), 12)]
    decoded = frame(ds)
    assert np.array_equal(decoded.pixels, np.clip(PLANE.astype(int) - 1000, 0, 2047))
    assert decoded.grey_range == (0, 4095)


@pytest.mark.parametrize("packed", [False, True])
def test_a_voi_lut_of_8_bits_and_many_entries_does_not_wrap(packed: bool) -> None:
    entries = np.arange(4096) // 16
    table = lut(0, entries.tolist(), 8)
    if packed:
        table.add_new("LUTData", "OW", entries.astype(np.uint8).tobytes())
    decoded = frame(dataset(PLANE, VOILUTSequence=[table]))
    assert np.array_equal(decoded.pixels, PLANE // 16)
    assert decoded.grey_range == (0, 255)


def test_a_modality_lut() -> None:
    decoded = frame(dataset(PLANE, ModalityLUTSequence=[lut(10, [5, 700, 3000], 12)], WindowCenter=8, WindowWidth=5))
    assert np.array_equal(decoded.pixels, np.array([5, 700, 3000])[np.clip(PLANE.astype(int) - 10, 0, 2)])
    assert decoded.grey_range == (5.5, 9.5)


def test_monochrome1_is_inverted_by_the_caller() -> None:
    decoded = frame(dataset(PLANE, PhotometricInterpretation="MONOCHROME1"))
    assert decoded.inverted
    assert decoded.mode == "MONOCHROME1 16"
    assert np.array_equal(decoded.pixels, PLANE)


# Functional groups


def enhanced(own: list[Dataset], shared: Dataset | None = None, **elements: object) -> Dataset:
    stored = np.stack([PLANE, PLANE + 1])
    ds = dataset(stored, frames=2, SOPClassUID=EnhancedMRImageStorage, **elements)
    ds.PerFrameFunctionalGroupsSequence = own
    if shared:
        ds.SharedFunctionalGroupsSequence = [shared]
    return ds


def rescale(slope: float, intercept: float) -> Dataset:
    values = item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")
    return item(PixelValueTransformationSequence=[values])


def window(centre: float, width: float) -> Dataset:
    return item(FrameVOILUTSequence=[item(WindowCenter=centre, WindowWidth=width)])


def test_each_frame_has_its_own_rescaling() -> None:
    expected = np.stack([PLANE * 2.0 + 1, (PLANE + 1) * 5.0 - 3])
    decoded = frames(enhanced([rescale(2, 1), rescale(5, -3)], RescaleSlope=100, RescaleIntercept=9))
    assert np.array_equal(np.stack([f.pixels for f in decoded]), expected)
    assert {f.grey_range for f in decoded} == {percentile_range(expected, PERCENTILES)}


def test_each_frame_has_its_own_window() -> None:
    decoded = frames(enhanced([window(100, 51), window(200, 11)]))
    assert [f.grey_range for f in decoded] == [(74.5, 124.5), (194.5, 204.5)]


def test_shared_groups_stand_in_for_missing_ones_and_the_root_for_both() -> None:
    decoded = frames(enhanced([rescale(2, 1), window(200, 11)], rescale(3, 0), WindowCenter=100, WindowWidth=51))
    assert np.array_equal(decoded[0].pixels, PLANE * 2.0 + 1)
    assert np.array_equal(decoded[1].pixels, (PLANE + 1) * 3.0)
    assert [f.grey_range for f in decoded] == [(74.5, 124.5), (194.5, 204.5)]


def test_fewer_groups_than_frames() -> None:
    decoded = frames(enhanced([rescale(2, 1)]))
    assert np.array_equal(decoded[0].pixels, PLANE * 2.0 + 1)
    assert np.array_equal(decoded[1].pixels, PLANE + 1)


# Pixel formats


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint32, np.int32])
def test_widths_and_signs(dtype: type) -> None:
    stored = np.random.default_rng(2).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (5, 4), dtype)
    decoded = frame(dataset(stored))
    assert np.array_equal(decoded.pixels, stored)
    assert decoded.grey_range == percentile_range(stored, PERCENTILES)


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_left_out(signed: bool) -> None:
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
def test_floating_point_pixels(keyword: str, dtype: str) -> None:
    stored = np.linspace(-2, 7, 60).reshape(6, 10).astype(dtype)
    ds = dataset(stored)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    setattr(ds, keyword, stored.tobytes())
    assert np.array_equal(frame(ds).pixels, stored)
    assert frame(ds).grey_range == percentile_range(stored, PERCENTILES)


def test_one_bit_for_a_pixel() -> None:
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


def test_colour_of_16_bits() -> None:
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


def test_colours_without_a_conversion_are_refused() -> None:
    assert refusal(dataset(COLOURS, PhotometricInterpretation="HSV")).code == "unsupported_format"


# What leaves a data set


def test_identifiers() -> None:
    decoded = frame(dataset(PLANE, PatientID=" A7 ", IssuerOfPatientID="Hospital"))
    assert (decoded.patient, decoded.scan) == ("A7|Hospital", "1.2.3")
    assert frame(dataset(PLANE, PatientID=" A7 ")).patient == "A7"
    bare = frame(dataset(PLANE, PatientID="", IssuerOfPatientID="Hospital", SeriesInstanceUID=""))
    assert (bare.patient, bare.scan) == (None, None)


def test_no_other_text_is_in_a_frame() -> None:
    decoded = frame(dataset(PLANE, PatientID="A7", StudyDescription=NAME))
    assert "SECRET" not in repr(decoded)


# Refusals


def test_objects_without_pixels() -> None:
    report = dataset(PLANE, SOPClassUID=BasicTextSRStorage)
    del report.PixelData, report.PhotometricInterpretation
    error = refusal(report)
    assert (error.code, error.text) == ("no_pixels", "a DICOM object that holds no image (Basic Text SR Storage)")
    report.SOPClassUID = "1.3.12.2.1107.5.9.1"
    assert refusal(report).text == "a DICOM object that holds no image (private SOP class)"
    error = refusal(installed("dicomdirtests/DICOMDIR"))
    assert (error.code, error.text) == (
        "no_pixels",
        "a DICOM object that holds no image (Media Storage Directory Storage)",
    )


def test_an_image_without_its_pixels_is_no_report() -> None:
    ds = dataset(PLANE)
    del ds.PixelData
    error = refusal(ds)
    assert (error.code, error.text) == ("truncated", "an image without its pixel data (MR Image Storage)")


@pytest.mark.parametrize("data", [b"", b"\0" * 400, b"a,b\n1,2\n" * 50, b"\xff" * 400, bytes(128) + b"DICM"])
def test_what_is_no_data_set_is_corrupt(data: bytes) -> None:
    assert refusal(data).code == "corrupt"


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"Rows": 20_000, "Columns": 20_000}, "too_many_pixels"),
        ({"NumberOfFrames": 30_000}, "too_many_frames"),
        ({"NumberOfFrames": 19_000, "Rows": 1000, "Columns": 1000}, "too_many_pixels"),
        ({"Rows": 0}, "empty_image"),
        ({"Columns": 0}, "empty_image"),
        ({"NumberOfFrames": -1}, "corrupt"),
        ({"NumberOfFrames": 2}, "truncated"),
        ({"Rows": 7}, "truncated"),
        ({"BitsStored": 17}, "corrupt"),
        ({"BitsAllocated": 13}, "corrupt"),
        ({"SamplesPerPixel": 2}, "truncated"),
        ({"PhotometricInterpretation": "SECRET"}, "corrupt"),
    ],
)
def test_declarations_are_checked(elements: dict[str, object], code: str) -> None:
    error = refusal(dataset(PLANE, **elements))
    assert error.code == code
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    "elements", [{"Rows": 20_000, "Columns": 20_000}, {"NumberOfFrames": 30_000}, {"NumberOfFrames": 10_000}]
)
def test_declarations_are_checked_before_decoding(elements: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    ds = dataset(PLANE)
    ds.compress(RLELossless, generate_instance_uid=False)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    monkeypatch.setattr(dicom, "get_decoder", lambda *args: pytest.fail("decoded"))
    assert refusal(ds, LimitsConfig(voxels=10_000)).code in ("too_many_pixels", "too_many_frames")


@pytest.mark.parametrize("garbage", [b"SECR", b"nan ", b"1e9 ", b"2\\3 ", b"-3  ", b"\xff\xff\xff\xff"])
def test_a_number_of_frames_without_sense(garbage: bytes) -> None:
    error = refusal(written(dataset(PLANE, NumberOfFrames=8765)).replace(b"8765", garbage))
    assert error.code in ("corrupt", "too_many_frames", "truncated")
    assert "SECR" not in str(error)


@pytest.mark.parametrize("value", [0, None])
def test_no_number_of_frames_is_one(value: int | None) -> None:
    assert frame(dataset(PLANE, NumberOfFrames=value)).number is None


def test_more_frames_than_declared_are_left_out() -> None:
    stored = np.stack([PLANE] * 3)
    assert len(frames(dataset(stored, frames=2, NumberOfFrames=2))) == 2


def jpeg(width: int, height: int) -> bytes:
    out = BytesIO()
    Image.new("L", (width, height), 90).save(out, "JPEG")
    return out.getvalue()


def j2k(width: int, height: int, name: str) -> bytes:
    out = BytesIO()
    Image.new("L", (width, height), 90).save(out, "JPEG2000", no_jp2=name == "j2k")
    return out.getvalue()


@pytest.mark.parametrize(
    ("make", "syntax"),
    [
        (jpeg, JPEGBaseline8Bit),
        (lambda w, h: j2k(w, h, "j2k"), JPEG2000),
        (lambda w, h: j2k(w, h, "jp2"), JPEG2000),
    ],
)
def test_a_codestream_of_another_size_is_refused(make: Callable[[int, int], bytes], syntax: str) -> None:
    plane = np.zeros((16, 24), np.uint8)
    right = frame(encapsulated(dataset(plane), [make(24, 16)], syntax))
    assert (right.pixels == 90).all()
    for size in ((24, 17), (16, 24), (600, 600)):
        error = refusal(encapsulated(dataset(plane), [make(*size)], syntax))
        assert error.text == "a codestream declares another size than the data set"


def test_a_second_frame_of_another_size_is_refused() -> None:
    ds = encapsulated(
        dataset(np.zeros((2, 16, 24), np.uint8), frames=2), [jpeg(24, 16), jpeg(900, 900)], JPEGBaseline8Bit
    )
    decoding = dicom.decode(written(ds), LIMITS, PERCENTILES)
    assert next(decoding).number == 0
    with pytest.raises(SampleError, match="another size"):
        next(decoding)


def test_a_jpeg_ls_codestream_of_another_size_is_refused() -> None:
    ds = dataset(PLANE)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.Rows = 7
    assert refusal(ds).text == "a codestream declares another size than the data set"


# Damage


NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
SYNTAXES = [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless]


@functools.cache
def volume(syntax: str) -> bytes:
    plane = np.tile(PLANE, (6, 4))
    ds = dataset(np.stack([plane, plane]), frames=2)
    if syntax in NATIVE:
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)
    return written(ds)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_truncation_gives_frames_or_a_sample_error(syntax: str) -> None:
    whole = volume(syntax)
    assert len(frames(whole)) == 2
    outcomes = [outcome(whole[:length]) for length in range(0, len(whole), max(7, len(whole) // 150))]
    assert {text.partition(":")[0] for text in outcomes} <= {"", "corrupt", "truncated", "no_pixels"}
    assert not any("SECRET" in text or "Doe" in text for text in outcomes)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_image_cut_short_is_truncated(syntax: str) -> None:
    whole = volume(syntax)
    assert {refusal(whole[: len(whole) - cut]).code for cut in (1, 2, 600, 3000)} == {"truncated"}


@settings(max_examples=150, derandomize=True, database=None)
@given(st.sampled_from(SYNTAXES), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutilated_files_never_give_away_text(syntax: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(volume(syntax))
    for place, value in changes:
        data[int(place * len(data))] = value
    text = outcome(bytes(data))
    assert "SECRET" not in text
    assert "Doe" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "keyword",
    [
        "PhotometricInterpretation",
        "NumberOfFrames",
        "WindowCenter",
        "SOPClassUID",
        "SpecificCharacterSet",
        "VOILUTFunction",
    ],
)
def test_no_element_is_quoted(keyword: str) -> None:
    ds = dataset(PLANE)
    vr = pydicom.datadict.dictionary_VR(keyword)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.add(pydicom.dataelem.DataElement(keyword, vr, "1.2", validation_mode=0))
        place = written(ds)
        element = place.replace(b"1.2\0" if vr == "UI" else b"1.2 ", b"SECR")
    assert not any("SECR" in outcome(data) for data in (element, element[:-40]))


def test_nothing_is_logged_or_printed(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    whole = volume(RLELossless)
    outcomes = [outcome(whole[:length]) for length in range(200, len(whole), 400)]
    logging.getLogger().removeHandler(handler)
    assert any(outcomes)
    assert heard == []
    assert capfd.readouterr() == ("", "")


def test_a_deflated_stream_cut_short_is_no_crash() -> None:
    whole = volume(DeflatedExplicitVRLittleEndian)
    assert refusal(whole[:-20]).code == "corrupt"


# What pydicom brings

EXPECTED = {"frames": 90, "no_pixels": 17, "truncated": 54, "corrupt": 15}


def test_every_installed_file_gives_frames_or_a_known_code() -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    for folder, _, names in os.walk(INSTALLED):
        for name in names:
            try:
                decoded = frames((Path(folder) / name).read_bytes())
            except SampleError as error:
                outcomes[error.code] += 1
            else:
                outcomes["frames"] += 1
                for one in decoded:
                    assert one.pixels.shape == (one.height, one.width)
                    assert np.isrealobj(one.pixels)
    if not outcomes:
        pytest.skip("NOT TESTED: this pydicom brings no test files")
    assert outcomes == EXPECTED
