"""Stored values of a DICOM object become grey intensities and their range, frame by frame."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from brainscale.reading.formats.frame import percentile_range
from tests.support.dicom import PERCENTILES, PLANE, dataset, frame, frames, item, lut, written


def test_percentiles_are_the_range_of_an_object_without_a_window() -> None:
    decoded = frame(dataset(PLANE))
    assert decoded.grey_range == percentile_range(PLANE, PERCENTILES)
    assert (decoded.format, decoded.mode, decoded.width, decoded.height) == ("DICOM", "MONOCHROME2 16", 10, 6)
    assert (decoded.number, decoded.inverted) == (None, False)


def test_frames_without_a_window_share_one_range() -> None:
    stored = np.stack([PLANE, PLANE // 7, PLANE + 9])
    decoded = frames(dataset(stored, frames=3))
    assert [f.number for f in decoded] == [0, 1, 2]
    assert {f.grey_range for f in decoded} == {percentile_range(stored, PERCENTILES)}


def test_8_bit_pixels_stay_as_they_are() -> None:
    stored = PLANE.astype(np.uint8)
    decoded = frame(dataset(stored))
    assert decoded.pixels.dtype == np.uint8
    assert np.array_equal(decoded.pixels, stored)
    assert decoded.grey_range is None
    assert frame(dataset(stored, RescaleSlope=1, RescaleIntercept=0)).grey_range is None
    assert frame(dataset(stored % 64, BitsStored=6, HighBit=5)).grey_range == (0, 63)
    assert frame(dataset(stored.astype(np.uint16), BitsStored=8, HighBit=7)).grey_range == (0, 255)


def test_stored_values_are_rescaled() -> None:
    decoded = frame(dataset(PLANE, RescaleSlope="2.5", RescaleIntercept="-1024"))
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
def test_a_window_becomes_the_grey_range(elements: dict[str, object], expected: tuple[float, float]) -> None:
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
def test_windows_and_slopes_that_make_no_sense_are_ignored(elements: dict[str, object]) -> None:
    decoded = frame(dataset(PLANE, **elements))
    assert np.array_equal(decoded.pixels, PLANE)
    assert decoded.grey_range == percentile_range(PLANE, PERCENTILES)


@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("garbage", [b"wide", b"nan ", b"inf ", b"1,5 ", b"\xff\xfe", b"\\\\\\ "])
def test_values_that_are_not_numbers_are_ignored(keyword: str, garbage: bytes) -> None:
    ds = dataset(PLANE, WindowCenter=100, WindowWidth=50, RescaleSlope=1, RescaleIntercept=0)
    setattr(ds, keyword, "8765")
    decoded = frame(written(ds).replace(b"8765", garbage.ljust(4)))
    assert np.array_equal(decoded.pixels, PLANE)


def test_a_sigmoid_window_is_applied() -> None:
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


def test_a_modality_lut_comes_before_the_window() -> None:
    decoded = frame(dataset(PLANE, ModalityLUTSequence=[lut(10, [5, 700, 3000], 12)], WindowCenter=8, WindowWidth=5))
    assert np.array_equal(decoded.pixels, np.array([5, 700, 3000])[np.clip(PLANE.astype(int) - 10, 0, 2)])
    assert decoded.grey_range == (5.5, 9.5)


def test_monochrome1_is_marked_as_inverted() -> None:
    decoded = frame(dataset(PLANE, PhotometricInterpretation="MONOCHROME1"))
    assert decoded.inverted
    assert decoded.mode == "MONOCHROME1 16"
    assert np.array_equal(decoded.pixels, PLANE)


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


def test_a_missing_group_is_replaced_by_the_shared_one_then_by_the_data_set() -> None:
    decoded = frames(enhanced([rescale(2, 1), window(200, 11)], rescale(3, 0), WindowCenter=100, WindowWidth=51))
    assert np.array_equal(decoded[0].pixels, PLANE * 2.0 + 1)
    assert np.array_equal(decoded[1].pixels, (PLANE + 1) * 3.0)
    assert [f.grey_range for f in decoded] == [(74.5, 124.5), (194.5, 204.5)]


def test_frames_without_a_group_use_the_data_set() -> None:
    decoded = frames(enhanced([rescale(2, 1)]))
    assert np.array_equal(decoded[0].pixels, PLANE * 2.0 + 1)
    assert np.array_equal(decoded[1].pixels, PLANE + 1)
