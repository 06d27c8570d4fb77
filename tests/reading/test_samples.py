"""Samples of any source, read one after the other without Ray."""

import gzip
import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from brainscale.config.sections import PreprocessConfig
from brainscale.errors import SourceError
from brainscale.reading.reader import Sample, file_table, read_samples, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files
from tests.conftest import write_image

SIDE = 64
REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=SIDE, crop=1.0), key=b"k" * 16)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, one of them damaged."""
    folder = tmp_path_factory.mktemp("mixed")
    image = write_image(folder / "a.png", size=(SIDE, SIDE))
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.write(image, "in/1.png")
        archive.writestr("in/notes.txt", "no image")
    dicom = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm"
    (folder / "c.dcm").write_bytes(dicom.read_bytes())
    volume = np.zeros((20, 20, 3), np.int16)
    volume[5:15, 5:15, 1] = 100
    (folder / "d.nii.gz").write_bytes(gzip.compress(nib.Nifti1Image(volume, np.eye(4)).to_bytes()))
    (folder / "e.jpg").write_bytes(_jpeg()[:200])
    return folder


def _jpeg() -> bytes:
    out = io.BytesIO()
    Image.new("L", (40, 30)).save(out, "JPEG")
    return out.getvalue()


def test_each_sample_of_a_folder_is_a_plane_or_an_error(mixed: Path) -> None:
    samples = {sample.sample_id: sample for sample in read_samples(str(mixed), REQUEST)}
    assert {name: sample.error_code for name, sample in samples.items()} == {
        "a.png": None,
        "b.zip!in/1.png": None,
        "b.zip!in/notes.txt": "unsupported_format",
        "c.dcm": None,
        "d.nii.gz#0": None,
        "d.nii.gz#1": None,
        "d.nii.gz#2": None,
        "e.jpg": "corrupt",
    }
    for sample in samples.values():
        assert (sample.plane is None) == (sample.error_code is not None) == (sample.error is not None)
        if sample.plane is not None:
            assert (sample.plane.dtype, sample.plane.shape) == (np.uint8, (SIDE, SIDE))
    assert np.array_equal(samples["a.png"].plane, np.asarray(Image.open(mixed / "a.png")))
    assert samples["b.zip!in/1.png"].sha256 == samples["a.png"].sha256
    assert samples["b.zip!in/1.png"].member == "in/1.png"
    assert [samples[f"d.nii.gz#{i}"].empty for i in range(3)] == [True, False, True]
    dicom = samples["c.dcm"]
    assert (dicom.format, dicom.mode, dicom.width, dicom.height) == ("DICOM", "MONOCHROME2 16", 64, 64)
    assert len(dicom.patient or "") == len(dicom.scan or "") == 32


def test_samples_are_the_rows_of_the_table(mixed: Path) -> None:
    (table,) = read_tables(file_table(list_files([str(mixed)])), request=REQUEST)
    samples = list(read_samples(mixed, REQUEST))
    for row, sample in zip(table.to_pylist(), samples, strict=True):
        plane = None if sample.plane is None else sample.plane.tobytes()
        fields = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
        assert {**fields, "plane": plane} == {name: row[name] for name in fields}


def test_several_sources_are_read_in_one_go(mixed: Path) -> None:
    names = [sample.sample_id for sample in read_samples([mixed / "a.png", mixed / "d.nii.gz"], REQUEST)]
    assert names == ["a.png", "d.nii.gz#0", "d.nii.gz#1", "d.nii.gz#2"]


def test_without_planes_hashes_come_alone(mixed: Path) -> None:
    (sample,) = read_samples(mixed / "a.png", ReadRequest(preprocess=REQUEST.preprocess, planes=False, hashes=True))
    assert sample.plane is None
    assert len(sample.phash or "") == 16


def test_a_missing_source_is_an_error_before_the_first_sample(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read_samples(str(tmp_path / "nowhere"), REQUEST)


def test_a_file_that_goes_after_the_listing_is_an_error_when_its_turn_comes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    samples = read_samples(tmp_path, REQUEST)
    assert next(samples).error_code is None
    (tmp_path / "b.png").unlink()
    assert [sample.error_code for sample in samples] == ["unreadable"]
