"""Files become samples and tables: planes or errors, and nothing raises."""

import gzip
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pydicom
import pytest
from PIL import Image

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import SourceError
from brainscale.reading import reader
from brainscale.reading.file_tables import file_table, files_of_manifest, windows_in
from brainscale.reading.pseudonyms import hide_id
from brainscale.reading.reader import plan_files, read_file, read_planes, read_samples, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS, Sample
from brainscale.reading.sample_ids import split_id
from brainscale.reading.sources import SourceFile, list_files
from tests.support.files import GREY, encoded, zipped
from tests.support.images import write_image
from tests.support.series import as_series, phantom

SIDE = 64
REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=SIDE, crop=1.0), key=b"k" * 16)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, one of them damaged."""
    folder = tmp_path_factory.mktemp("mixed")
    image = write_image(folder / "a.png", size=(SIDE, SIDE)).read_bytes()
    (folder / "b.zip").write_bytes(zipped({"in/1.png": image, "in/notes.txt": b"no image"}))
    dicom = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm"
    (folder / "c.dcm").write_bytes(dicom.read_bytes())
    volume = np.zeros((20, 20, 3), np.int16)
    volume[5:15, 5:15, 1] = 100
    (folder / "d.nii.gz").write_bytes(gzip.compress(nib.Nifti1Image(volume, np.eye(4)).to_bytes()))
    (folder / "e.jpg").write_bytes(encoded(Image.fromarray(GREY), "JPEG")[:200])
    return folder


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


def test_a_volume_is_read_whatever_its_wrapper(tmp_path: Path) -> None:
    volume = nib.Nifti1Image(np.arange(20 * 20 * 3).reshape(20, 20, 3).astype(np.int16), np.eye(4)).to_bytes()
    packed = gzip.compress(volume)
    wrappers = {
        "plain": volume,
        "good": packed,
        "text behind": packed + b"checksum: ok\n",
        "zeros behind": packed + bytes(512),
        "twice": gzip.compress(packed),
        "cut": packed[: len(packed) // 2],
    }
    for name, content in wrappers.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
    samples = {sample.sample_id: sample for sample in read_samples(tmp_path, REQUEST)}
    assert samples.pop("cut.nii.gz").error_code == "corrupt_archive"
    assert len(samples) == 3 * (len(wrappers) - 1)
    for name, sample in samples.items():
        assert np.array_equal(sample.plane, samples[f"good.nii.gz{name[name.index('#') :]}"].plane)


def test_the_wanted_samples_of_an_archive_are_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(reader, "split_id", lambda sample_id: calls.append(sample_id) or split_id(sample_id))
    (tmp_path / "a.zip").write_bytes(zipped({f"{i}.txt": b"" for i in range(50)}))
    ids = tuple(f"a.zip!{i}.txt" for i in range(50))
    file = SourceFile(sample_id="a.zip", uri=str(tmp_path / "a.zip"), sample_ids=ids)
    assert [sample.sample_id for sample in read_file(file, REQUEST)] == list(ids)
    assert len(calls) == 50


def test_tables_hold_the_samples(mixed: Path) -> None:
    (table,) = read_tables(file_table(list_files([str(mixed)])), request=REQUEST)
    assert table.schema == COLUMNS
    for row, sample in zip(table.to_pylist(), read_samples(mixed, REQUEST), strict=True):
        plane = None if sample.plane is None else sample.plane.tobytes()
        values = {name: getattr(sample, name) for name in Sample.__dataclass_fields__}
        assert values.pop("waiting") is None
        values |= asdict(values.pop("acquisition"))
        assert {**values, "plane": plane} == {name: row[name] for name in values}


def test_a_long_file_is_cut_into_tables(tmp_path: Path) -> None:
    volume = np.zeros((8, 8, 100), np.uint8)
    (tmp_path / "v.nii").write_bytes(nib.Nifti1Image(volume, np.eye(4)).to_bytes())
    files = file_table(list_files([str(tmp_path)]))
    assert [len(table) for table in read_tables(files, request=REQUEST)] == [64, 36]


def test_only_the_samples_of_a_manifest_are_read(mixed: Path) -> None:
    (manifest,) = read_tables(file_table(list_files([str(mixed)])), request=REQUEST)
    (volume,) = files_of_manifest(manifest.filter([i in (4, 6) for i in range(len(manifest))]), REQUEST.preprocess)
    assert volume.sample_ids == ("d.nii.gz#0", "d.nii.gz#2")
    assert [sample.frame for sample in read_file(volume, REQUEST)] == [0, 2]
    planes = read_planes(list_files([str(mixed)]), ["d.nii.gz#1", "b.zip!in/1.png", "e.jpg"], REQUEST)
    assert planes.keys() == {"d.nii.gz#1", "b.zip!in/1.png"}
    assert planes["d.nii.gz#1"].shape == (SIDE, SIDE)


def test_a_sample_that_its_file_no_longer_holds_is_an_error(mixed: Path) -> None:
    file = SourceFile(sample_id="d.nii.gz", uri=str(mixed / "d.nii.gz"), sample_ids=("d.nii.gz#1", "d.nii.gz#7"))
    kept, gone = read_file(file, REQUEST)
    assert kept.error_code is None
    assert (gone.sample_id, gone.frame, gone.error_code) == ("d.nii.gz#7", 7, "gone")


def test_several_sources_are_read_one_after_the_other(mixed: Path) -> None:
    ids = [sample.sample_id for sample in read_samples([mixed / "a.png", mixed / "d.nii.gz"], REQUEST)]
    assert ids == ["a.png", "d.nii.gz#0", "d.nii.gz#1", "d.nii.gz#2"]


def test_hashes_come_without_planes(mixed: Path) -> None:
    request = ReadRequest(preprocess=REQUEST.preprocess, planes=False, hashes=True)
    image, damaged = read_samples([mixed / "a.png", mixed / "e.jpg"], request)
    assert image.plane is None
    assert len(image.phash or "") == 16
    assert (damaged.error_code, damaged.phash) == ("corrupt", None)


def test_a_file_that_is_odd_but_was_read_has_a_note(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "v.nii.gz").write_bytes((mixed / "d.nii.gz").read_bytes() + b"checksum: ok\n")
    (tmp_path / "a.png.gz").write_bytes(gzip.compress((mixed / "a.png").read_bytes()))
    note = "bytes behind the end of the compressed file are ignored"
    read = [(sample.sample_id, sample.error_code, sample.note) for sample in read_samples(tmp_path, REQUEST)]
    assert read == [("a.png.gz", None, None), *((f"v.nii.gz#{i}", None, note) for i in range(3))]


def test_names_are_hashed_and_found_again(mixed: Path) -> None:
    request = replace(REQUEST, hash_paths=True)
    plain, hidden = (list(read_samples(mixed, r)) for r in (REQUEST, request))
    assert [s.sample_id for s in hidden] == [hide_id(s.sample_id, request.key) for s in plain]
    assert {s.uri for s in hidden} == {"hidden"}
    assert [s.sha256 for s in hidden] == [s.sha256 for s in plain]
    wanted = [s.sample_id for s in hidden if s.member or s.frame == 1]
    planes = read_planes(list_files([str(mixed)]), wanted, request)
    assert sorted(planes) == sorted(set(wanted) - {s.sample_id for s in hidden if s.error_code})
    (table,) = read_tables(file_table(list_files([str(mixed)])), request=request)
    assert "in/1.png" not in str(table.to_pylist())


@pytest.mark.parametrize("hash_paths", [False, True])
def test_planes_of_slices_have_the_windows_given_whatever_the_names(hash_paths: bool, tmp_path: Path) -> None:
    files = {f"{i:02}": data for i, data in enumerate(as_series(phantom()))}
    (tmp_path / "a.zip").write_bytes(zipped(dict(list(files.items())[:6])))
    for name, data in list(files.items())[6:]:
        (tmp_path / name).write_bytes(data)
    request = replace(REQUEST, hash_paths=hash_paths)
    samples = {sample.sample_id: sample for sample in read_samples(tmp_path, request)}
    plan = plan_files(list_files([str(tmp_path)]), request)
    table = pa.concat_tables(read_tables(file_table(plan.files), request=request))
    assert set(table["sample_id"].to_pylist()) == set(samples)
    assert len(set(table["window_high"].to_pylist())) == 1
    chosen = list(samples)[::3]
    planes = read_planes(list_files([str(tmp_path)]), chosen, request, windows_in(table))
    assert sorted(planes) == sorted(chosen)
    assert all(np.array_equal(planes[name], samples[name].plane) for name in chosen)


@pytest.mark.parametrize("hash_paths", [False, True])
def test_what_is_said_of_series_names_no_file_where_names_are_hashed(hash_paths: bool, tmp_path: Path) -> None:
    for number, data in enumerate(as_series(phantom())):
        if number != 5:
            (tmp_path / f"meier{number:02}").write_bytes(data)
    (notice,) = plan_files(list_files([str(tmp_path)]), replace(REQUEST, hash_paths=hash_paths)).notices
    assert "have gaps" in notice
    assert ("meier00" in notice) is not hash_paths


def test_a_missing_source_is_refused_before_the_first_sample(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read_samples(str(tmp_path / "nowhere"), REQUEST)


def test_a_file_that_goes_after_the_listing_is_an_error_when_its_turn_comes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    samples = read_samples(tmp_path, REQUEST)
    assert next(samples).error_code is None
    (tmp_path / "b.png").unlink()
    (gone,) = samples
    assert (gone.error_code, gone.error) == ("gone", "the file does not exist any more")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"hello, I am text", "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n", "corrupt"),
        (encoded(Image.fromarray(GREY), "PNG")[:60], "corrupt"),
        (encoded(Image.fromarray(GREY), "JPEG")[:400], "corrupt"),
        (encoded(Image.fromarray(GREY), "TIFF")[:900], "corrupt"),
    ],
)
def test_a_bad_file_is_a_sample_with_an_error_in_one_line(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    (sample,) = read_samples(path, REQUEST)
    assert sample.error_code == code
    assert sample.error
    assert "\n" not in sample.error
    assert str(tmp_path) not in sample.error
    assert sample.plane is None
