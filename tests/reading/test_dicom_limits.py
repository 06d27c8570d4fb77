"""What a DICOM object declares is checked before anything is decoded."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEG2000, BasicTextSRStorage, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import dicom, dicom_pixels
from tests.support.dicom import (
    LIMITS,
    PERCENTILES,
    PLANE,
    dataset,
    encapsulated,
    frame,
    frames,
    installed,
    refusal,
    written,
)


def test_an_object_that_is_no_image_is_named() -> None:
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


def test_an_image_without_its_pixels_is_truncated() -> None:
    ds = dataset(PLANE)
    del ds.PixelData
    error = refusal(ds)
    assert (error.code, error.text) == ("truncated", "an image without its pixel data (MR Image Storage)")


@pytest.mark.parametrize("data", [b"", b"\0" * 400, b"a,b\n1,2\n" * 50, b"\xff" * 400, bytes(128) + b"DICM"])
def test_bytes_that_are_no_data_set_are_corrupt(data: bytes) -> None:
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
        ({"BitsAllocated": 13}, "unsupported_format"),
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
    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda *args: pytest.fail("decoded"))
    assert refusal(ds, LimitsConfig(voxels=10_000)).code in ("too_many_pixels", "too_many_frames")


@pytest.mark.parametrize("garbage", [b"SECR", b"nan ", b"1e9 ", b"2\\3 ", b"-3  ", b"\xff\xff\xff\xff"])
def test_a_number_of_frames_that_makes_no_sense_is_refused(garbage: bytes) -> None:
    error = refusal(written(dataset(PLANE, NumberOfFrames=8765)).replace(b"8765", garbage))
    assert error.code in ("corrupt", "too_many_frames", "truncated")
    assert "SECR" not in str(error)


@pytest.mark.parametrize("value", [0, None])
def test_an_object_without_a_number_of_frames_has_one(value: int | None) -> None:
    assert frame(dataset(PLANE, NumberOfFrames=value)).number is None


def test_frames_beyond_those_declared_are_left_out() -> None:
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
        assert error.text == "the size in the compressed image differs from the size in the DICOM header"


def test_a_second_frame_of_another_size_is_refused() -> None:
    ds = encapsulated(
        dataset(np.zeros((2, 16, 24), np.uint8), frames=2), [jpeg(24, 16), jpeg(900, 900)], JPEGBaseline8Bit
    )
    decoding = dicom.decode(written(ds), LIMITS, PERCENTILES)
    assert next(decoding).number == 0
    with pytest.raises(SampleError, match="size in the compressed image differs"):
        next(decoding)


def test_a_jpeg_ls_codestream_of_another_size_is_refused() -> None:
    ds = dataset(PLANE)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.Rows = 7
    assert refusal(ds).text == "the size in the compressed image differs from the size in the DICOM header"
