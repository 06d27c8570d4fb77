"""FreeSurfer's MGH and MGZ give the slices that nibabel's reading of the same file gives."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading.decoder import decode
from brainscale.reading.formats import mgh, nifti
from brainscale.reading.formats.frame import Frame
from brainscale.reading.formats.recognition import is_mgh
from brainscale.reading.request import ReadRequest

WINDOW = (0.5, 99.5)
VOLUME = np.arange(4 * 5 * 6).reshape(4, 5, 6)


def frames(data: bytes, slices: str = "axial", **limits: int) -> list[Frame]:
    assert is_mgh(data[:512])
    return list(mgh.decode(data, LimitsConfig(**limits), WINDOW, slices))


def affine_of(axes: str) -> np.ndarray:
    """An affine with these directions, 1 × 2 × 3 mm."""
    identity = np.diag([1.0, 2.0, 3.0, 1.0])
    to = nib.orientations.ornt_transform(nib.io_orientation(identity), nib.orientations.axcodes2ornt(tuple(axes)))
    return identity @ nib.orientations.inv_ornt_aff(to, VOLUME.shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.int16, np.uint16])
@pytest.mark.parametrize("axes", ["RAS", "LIA", "PSR"])
@pytest.mark.parametrize("slices", ["axial", "coronal", "sagittal"])
def test_mgh_gives_the_slices_of_the_same_volume_as_nifti(dtype: type, axes: str, slices: str) -> None:
    volume, affine = VOLUME.astype(dtype), affine_of(axes)
    theirs = nifti.decode(bytes(nib.Nifti1Image(volume, affine).to_bytes()), LimitsConfig(), WINDOW, slices)
    for one, other in zip(frames(bytes(nib.MGHImage(volume, affine).to_bytes()), slices), theirs, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert (one.format, one.mode, one.grey_range, one.number) == (
            "MGH",
            other.mode,
            other.grey_range,
            other.number,
        )


def test_frames_of_a_series_and_a_file_without_geometry() -> None:
    data = bytes(nib.MGHImage(np.stack([VOLUME, VOLUME * 2], axis=-1).astype(np.int16), np.eye(4)).to_bytes())
    assert len(frames(data)) == 12
    coronal = bytes(nib.MGHImage(VOLUME.astype(np.int16), affine_of("LIA")).to_bytes())
    blank = coronal[:28] + bytes(62) + coronal[90:]
    for one, other in zip(frames(blank), frames(coronal), strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_mgh_is_recognised_by_its_content_and_limited() -> None:
    data = bytes(nib.MGHImage(VOLUME.astype(np.int16), np.eye(4)).to_bytes())
    request = ReadRequest(preprocess=PreprocessConfig(image_size=64, crop=1.0))
    assert [facts["format"] for facts, _ in decode(data, request)] == ["MGH"] * 6
    assert not is_mgh(gzip.compress(data)[:512])
    assert not is_mgh(b"\0\0\0\1" + bytes(508))
    for changed, code in (
        (data[:-100], "truncated"),
        (data[:20] + struct.pack(">i", 2) + data[24:], "unsupported_format"),
        (data[:4] + struct.pack(">i", 2**19) + data[8:], "truncated"),
    ):
        with pytest.raises(SampleError) as raised:
            frames(changed)
        assert raised.value.code == code
    with pytest.raises(SampleError, match="too_many_frames"):
        frames(data, frames=5)
