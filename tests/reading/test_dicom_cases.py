"""DICOM files that other tools were reported to read wrong: each gives its right plane, to one grey level."""

from io import BytesIO

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filewriter import write_dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from brainscale.reading.preprocess import to_grey
from tests.support.dicom import dataset, encapsulated, frame, frames, item, refusal, written
from tests.support.head import by_percentiles, difference, head, outside, scaled

PERCENTILES = (1.0, 99.0)
GREY = np.rint(head() * 255).astype(np.uint8)
DEEP = np.rint(head() * 1000).astype(np.uint16)


def right(values: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
    return by_percentiles(values, shown, PERCENTILES)


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return scaled(values, centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2)


def check(data: bytes | Dataset, expected: np.ndarray) -> None:
    assert difference(to_grey(frame(data), PERCENTILES), expected) <= 1


def twelve_bits(values: np.ndarray = DEEP, **elements: object) -> Dataset:
    return dataset(values, **{"BitsStored": 12, "HighBit": 11, **elements})


def test_padding_is_no_intensity_and_black() -> None:
    values = np.rint(head() * 1200).astype(np.int16)
    values[outside()] = -32768
    ds = dataset(values)
    ds.add_new("PixelPaddingValue", "SS", -32768)
    check(ds, right(values, ~outside()))


def test_padding_of_monochrome1_is_black_too() -> None:
    values = np.rint(3000 - head() * 2500).astype(np.uint16)
    check(twelve_bits(values, PhotometricInterpretation="MONOCHROME1"), 255 - right(values))
    values[outside()] = 0
    ds = twelve_bits(values, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    expected = 255 - right(values, ~outside())
    expected[outside()] = 0
    check(ds, expected)


def test_a_window_of_width_1_is_a_threshold() -> None:
    check(twelve_bits(WindowCenter=500, WindowWidth=1), np.where(DEEP > 499.5, 255, 0).astype(np.uint8))


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize(
    "absent",
    [
        ["SamplesPerPixel"],
        ["PhotometricInterpretation"],
        ["PixelRepresentation"],
        ["HighBit"],
        ["BitsAllocated"],
        ["SamplesPerPixel", "PhotometricInterpretation", "PixelRepresentation", "HighBit"],
    ],
)
def test_elements_that_are_absent_have_defaults(absent: list[str], emptied: bool) -> None:
    ds = twelve_bits()
    for keyword in absent:
        if emptied:
            setattr(ds, keyword, None)
        else:
            delattr(ds, keyword)
    check(ds, right(DEEP))


def test_bits_that_are_absent_follow_from_the_others_or_from_the_length() -> None:
    ds = twelve_bits()
    del ds.BitsStored, ds.HighBit
    check(ds, right(DEEP))
    del ds.BitsAllocated
    check(ds, right(DEEP))
    ds = dataset(GREY)
    del ds.BitsAllocated, ds.BitsStored, ds.HighBit
    check(ds, GREY)


def test_colour_without_samples_per_pixel_or_planar_configuration_is_read() -> None:
    ds = dataset(np.dstack([GREY] * 3))
    del ds.SamplesPerPixel, ds.PlanarConfiguration
    check(ds, GREY)
    ds = dataset(np.dstack([GREY] * 3))
    del ds.PhotometricInterpretation
    check(ds, GREY)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("signed", [False, True])
def test_values_in_the_upper_bits_are_moved_down(syntax: str | None, signed: bool) -> None:
    values = DEEP.astype(np.int16) - 500 if signed else DEEP
    ds = dataset(values << 4, WindowCenter=400, WindowWidth=700)
    if syntax:
        ds.compress(syntax, generate_instance_uid=False)
    ds.BitsStored = 12  # and HighBit 15
    assert np.array_equal(frame(ds).pixels, values)
    check(ds, windowed(values, 400, 700))


def test_a_high_bit_that_makes_no_sense_is_ignored() -> None:
    for high_bit in (0, 5, 16, 40):
        check(twelve_bits(HighBit=high_bit), right(DEEP))


def replace_syntax(data: bytes, named: str, other: str) -> bytes:
    """A file whose meta information names another transfer syntax than its data set has."""
    padded = named.encode() + b"\0" * (len(named) % 2)
    assert data.count(padded) == 1
    assert len(other) <= len(padded)
    return data.replace(padded, other.encode().ljust(len(padded), b"\0"))


def with_meta_of(named: str, syntax: str) -> bytes:
    """A data set in one syntax behind the meta information of another."""
    parts = []
    for uid in (named, syntax):
        ds = twelve_bits()
        if uid == ExplicitVRBigEndian:
            ds.PixelData = DEEP.byteswap().tobytes()
        if UID(uid).is_compressed and uid != DeflatedExplicitVRLittleEndian:
            encapsulated(ds, [b"\0\0"], uid)
        ds.file_meta.TransferSyntaxUID = uid
        data = written(ds)
        start = 144 + int.from_bytes(data[140:144], "little")
        parts.append((data[:start], data[start:]))
    return parts[0][0] + parts[1][1]


NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("named", [*NATIVE, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless])
def test_the_data_set_counts_and_not_the_syntax_that_the_file_names(named: str, syntax: str) -> None:
    check(with_meta_of(named, syntax), right(DEEP))


def jpeg(quality: int = 95) -> bytes:
    out = BytesIO()
    Image.fromarray(GREY).save(out, "JPEG", quality=quality)
    return out.getvalue()


@pytest.mark.parametrize("named", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless, "1.2.840.10008.1.2.4.53"])
def test_a_jpeg_under_the_name_of_another_syntax_is_read(named: str) -> None:
    data = written(encapsulated(dataset(GREY), [jpeg()], JPEGBaseline8Bit))
    check(replace_syntax(data, JPEGBaseline8Bit, named), np.asarray(Image.open(BytesIO(jpeg()))))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("named", [ExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGLSLossless])
def test_the_codestream_counts_and_not_the_compression_that_the_file_names(named: str, syntax: str) -> None:
    ds = twelve_bits()
    ds.compress(syntax, generate_instance_uid=False)
    check(replace_syntax(written(ds), syntax, named) if len(named) <= len(syntax) else written(ds), right(DEEP))


def test_compressed_pixels_that_nothing_names_are_refused() -> None:
    data = written(encapsulated(dataset(GREY), [b"\x01" * 90], JPEGBaseline8Bit))
    assert refusal(replace_syntax(data, JPEGBaseline8Bit, ExplicitVRLittleEndian)).code == "unsupported_transfer_syntax"


def test_bits_above_those_stored_hold_an_overlay() -> None:
    overlaid = np.rint(head() * 900).astype(np.uint16)
    values = overlaid.copy()
    overlaid[4:12, 4:40] |= 1 << 12
    check(twelve_bits(overlaid), right(values))


def test_signed_values_of_12_bits_need_no_extended_sign() -> None:
    values = np.rint(head() * 1500 - 300).astype(np.int16)
    check(twelve_bits((values & 0x0FFF).astype(np.uint16), PixelRepresentation=1), right(values))


def test_the_first_of_several_sigmoid_windows_counts() -> None:
    ds = twelve_bits(WindowCenter=[400, 100], WindowWidth=[300, 10], VOILUTFunction="SIGMOID")
    check(ds, np.rint(255 / (1 + np.exp(-4 * (DEEP.astype(float) - 400) / 300))).astype(np.uint8))


def test_each_frame_has_its_own_rescaling_and_window() -> None:
    stored = np.stack([np.rint(head(seed=i) * 1000).astype(np.uint16) for i in (0, 1)])
    misleading = {"RescaleSlope": 9, "RescaleIntercept": 9, "WindowCenter": 1, "WindowWidth": 2}
    ds = dataset(stored, frames=2, SOPClassUID=EnhancedMRImageStorage, **misleading)
    settings = ((2.0, -100.0, 500.0, 1000.0), (0.5, 10.0, 200.0, 300.0))
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="US")],
            FrameVOILUTSequence=[item(WindowCenter=centre, WindowWidth=width)],
        )
        for slope, intercept, centre, width in settings
    ]
    for decoded, plane, (slope, intercept, centre, width) in zip(frames(ds), stored, settings, strict=True):
        expected = windowed(plane * slope + intercept, centre, width)
        assert difference(to_grey(decoded, PERCENTILES), expected) <= 1


def test_signed_values_in_an_unsigned_jpeg_2000_codestream() -> None:
    values = np.rint(head() * 2000 - 700).astype(np.int16)
    ds = dataset((values & 0x1FFF).astype(np.uint16), BitsStored=13, HighBit=12)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.PixelRepresentation = 1
    check(ds, right(values))


def test_a_jpeg_2000_codestream_of_fewer_bits_than_the_header_says() -> None:
    values = np.rint(head() * 3500).astype(np.uint16)
    ds = twelve_bits(values, WindowCenter=1500, WindowWidth=3000)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.BitsStored, ds.HighBit = 16, 15
    check(ds, windowed(values, 1500, 3000))


def test_jpeg_ls_of_signed_values() -> None:
    values = np.rint(head() * 1500 - 300).astype(np.int16)
    ds = twelve_bits(values)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    check(ds, right(values))


def test_frames_in_several_fragments_without_a_table_of_offsets() -> None:
    stored = np.stack([np.rint(head(seed=i) * 1000).astype(np.uint16) for i in range(3)])
    for count, fragments in ((1, 5), (3, 2)):
        ds = dataset(stored[:count], frames=count, BitsStored=12, HighBit=11)
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        codes = list(generate_frames(ds.PixelData, number_of_frames=count))
        ds.PixelData = encapsulate(codes, fragments_per_frame=fragments, has_bot=False)
        if count == 1:
            del ds.NumberOfFrames
        assert np.array_equal(np.stack([decoded.pixels for decoded in frames(ds)]), stored[:count])


def test_an_odd_number_of_bytes_without_padding() -> None:
    values = np.rint(head(63, 63) * 255).astype(np.uint8)
    data = written(dataset(values))
    start = data.rindex(b"\xe0\x7f\x10\x00OB\0\0") + 8
    check(data[:start] + (63 * 63).to_bytes(4, "little") + data[start + 4 : -1], values)


@pytest.mark.parametrize(("implicit", "little_endian"), [(True, True), (False, False), (False, True)])
def test_a_data_set_without_meta_information(implicit: bool, little_endian: bool) -> None:
    ds = twelve_bits(DEEP if little_endian else DEEP.byteswap(), WindowCenter=400, WindowWidth=700)
    ds.SpecificCharacterSet = "ISO_IR 100"
    out = pydicom.filebase.DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = implicit, little_endian
    del ds.file_meta
    write_dataset(out, ds)
    check(out.getvalue(), windowed(DEEP, 400, 700))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize(("vr", "first"), [("SS", -500), ("US", 65036)])
def test_a_voi_lut_of_signed_values(syntax: str, vr: str, first: int) -> None:
    values, table = np.rint(head() * 1000 - 500).astype(np.int16), np.minimum(255, np.arange(1001) // 3)
    lut = Dataset()
    lut.add_new("LUTDescriptor", vr, [1001, first, 8])
    lut.add_new("LUTData", "OW", table.astype(np.uint16).tobytes())
    ds = dataset(values, VOILUTSequence=[lut])
    ds.file_meta.TransferSyntaxUID = syntax
    check(ds, table[values.astype(int) + 500].astype(np.uint8))


def test_a_voi_lut_without_a_descriptor_is_ignored() -> None:
    lut = Dataset()
    lut.add_new("LUTData", "OW", b"\0\0\1\0")
    check(twelve_bits(VOILUTSequence=[lut]), right(DEEP))


def test_odd_but_legal_objects() -> None:
    planar = np.stack([GREY] * 3)
    check(dataset(np.dstack([GREY] * 3), PlanarConfiguration=1, PixelData=planar.tobytes()), GREY)
    flat = np.full_like(GREY, 128)
    check(dataset(np.dstack([GREY, flat, flat]), PhotometricInterpretation="YBR_FULL"), GREY)
    mask = head() > 0.5
    bits = np.packbits(mask.ravel(), bitorder="little").tobytes()
    check(dataset(GREY, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=bits), np.where(mask, 255, 0))
    signed = np.rint(head() * 200 - 100).astype(np.int8)
    check(dataset(signed), right(signed))
    ds = twelve_bits()
    ds.PixelData += b"\0" * 64
    check(ds, right(DEEP))
    for keyword, value in (("WindowCenter", ""), ("RescaleSlope", 0)):
        check(twelve_bits(**{keyword: value, "WindowWidth": "", "RescaleIntercept": 0}), right(DEEP))
    floats = (head() * 3).astype(np.float32)
    ds = dataset(floats, FloatPixelData=floats.tobytes())
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    check(ds, right(floats))
    assert refusal(twelve_bits(NumberOfFrames=2)).code == "truncated"


@pytest.mark.parametrize("bits", [2, 4, 12, 24])
def test_values_of_a_number_of_bits_that_nobody_writes_today_are_unsupported(bits: int) -> None:
    ds = dataset(np.zeros((8, 8), np.uint16), BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1)
    ds["PixelData"].value = bytes(8 * bits)
    assert refusal(written(ds)).code == "unsupported_format"


@pytest.mark.parametrize("absent", [["RescaleSlope"], ["RescaleIntercept"], []])
def test_a_slope_and_an_intercept_count_only_together(absent: list[str]) -> None:
    """As pydicom has it, which is the oracle."""
    ds = dataset(DEEP, RescaleSlope=2.5, RescaleIntercept=-7.0)
    for keyword in absent:
        delattr(ds, keyword)
    (frame,) = frames(written(ds))
    np.testing.assert_array_equal(frame.pixels, apply_modality_lut(DEEP, ds))
