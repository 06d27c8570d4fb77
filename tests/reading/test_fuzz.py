"""Any bytes, and any mutation of real files of each format, give samples and never an exception.

BRAINSCALE_FUZZ=10000 makes it the long run of `make fuzz`.
"""

import gzip
import os
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brainscale.config.sections import LimitsConfig, PreprocessConfig
from brainscale.reading.file_tables import file_table
from brainscale.reading.reader import read_file, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS
from brainscale.reading.sources import SourceFile
from tests.support.dicom import dataset, written
from tests.support.files import GREY, encoded, tarred, zipped, zstd
from tests.support.tiff import png16, tiff

CASES = int(os.environ.get("BRAINSCALE_FUZZ", "300"))
SIDE = 64
REQUEST = ReadRequest(
    preprocess=PreprocessConfig(image_size=SIDE, crop=1.0),
    limits=LimitsConfig(pixels=4_000_000, voxels=20_000_000, file_mib=64, frames=500, seconds=60.0),
    hashes=True,
    key=b"k" * 16,
)


def seeds() -> dict[str, bytes]:
    """One small real file of each kind."""
    image = Image.fromarray(GREY)
    files = {kind: encoded(image.convert("RGB"), kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000")}
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        pages = {"save_all": True, "append_images": [image]}
        files[f"TIFF {compression}"] = encoded(image, "TIFF", compression=compression, **pages)
    volume = nib.Nifti1Image(np.stack([GREY, GREY // 2], axis=-1), np.eye(4))
    files["NIfTI"] = volume.to_bytes()
    files["NIfTI gz"] = gzip.compress(files["NIfTI"])
    files["MGH"] = nib.MGHImage(np.stack([GREY, GREY // 2], axis=-1), np.eye(4)).to_bytes()
    deep = np.dstack([GREY.astype(np.uint16) * 99] * 4)
    files |= {"PNG 16": png16(deep), "PNG 16 alpha": png16(deep[..., :2])}
    files["TIFF 16 alpha"] = tiff(deep[..., :2], extra=(2,), orientation=6, rows=5)
    files["TIFF float64"] = tiff(GREY.astype(np.float64), tile=(16, 16), big=True, big_endian=True)
    files["TIFF deflate"] = tiff(GREY.astype(np.float32), predictor=3, deflate=True, rows=9)
    ds = dataset(GREY.astype(np.int16), PixelPaddingValue=0, WindowCenter=100, WindowWidth=1)
    files["DICOM padding"] = written(ds)
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    for path in sorted(folder.glob("*.dcm")):
        if path.stat().st_size < 60_000:
            files[path.name] = path.read_bytes()
    members = {"a.png": files["PNG"], "b/c.nii.gz": files["NIfTI gz"], "d.txt": b"text"}
    files |= {"zip": zipped(members), "tar": tarred(members), "tar.gz": gzip.compress(tarred(members))}
    header, image = files["NIfTI"][:344] + b"ni1\0" + files["NIfTI"][348:352], files["NIfTI"][352:]
    files["zip of a pair"] = zipped({"a.hdr": header, "a.img": image})
    return files | {"zip in zip": zipped({"in.zip": files["zip"]}), "tar.zst": zstd(tarred(members))}


SEEDS = seeds()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file that was cut, flipped, spliced with another or partly zeroed."""
    data = bytearray(SEEDS[draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["cut", "flip", "splice", "zero", "insert"])):
            case "cut":
                del data[position:]
            case "flip" if data:
                data[position] ^= 1 << draw(st.integers(0, 7))
            case "splice":
                other = SEEDS[draw(st.sampled_from(sorted(SEEDS)))]
                data[position:] = other[draw(st.integers(0, len(other))) :]
            case "zero":
                width = draw(st.integers(1, 64))
                data[position : position + width] = bytes(len(data[position : position + width]))
            case "insert":
                data[position:position] = draw(st.binary(max_size=32))
    return bytes(data)


def check_samples(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        samples = list(read_file(SourceFile(sample_id="any", uri=file.name), REQUEST))
    assert samples
    assert len({sample.sample_id for sample in samples}) == len(samples)
    for sample in samples:
        assert (sample.plane is None) == (sample.error_code is not None)
        assert sample.plane is None or sample.plane.shape == (SIDE, SIDE)
        assert sample.error is None or "\n" not in sample.error
        assert sample.sample_id.startswith("any")


@given(st.one_of(st.binary(max_size=600), mutated(), mutated(), mutated()))
@settings(max_examples=CASES)
def test_any_bytes_give_samples_and_never_an_exception(data: bytes) -> None:
    check_samples(data)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_each_real_file_gives_samples_that_make_a_table(name: str, tmp_path: Path) -> None:
    check_samples(SEEDS[name])
    path = tmp_path / "file"
    path.write_bytes(SEEDS[name])
    tables = list(read_tables(file_table([SourceFile(sample_id="file", uri=str(path))]), request=REQUEST))
    assert all(table.schema == COLUMNS for table in tables)
    assert sum(len(table) for table in tables) == tables[-1]["file_rows"].to_pylist()[-1]


def test_each_member_of_an_archive_is_a_sample() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(SEEDS["tar.gz"])
        file.flush()
        samples = list(read_file(SourceFile(sample_id="s/x.tgz", uri=file.name), REQUEST))
    assert {sample.sample_id: sample.error_code for sample in samples} == {
        "s/x.tgz!a.png": None,
        "s/x.tgz!b/c.nii.gz#0": None,
        "s/x.tgz!b/c.nii.gz#1": None,
        "s/x.tgz!d.txt": "unsupported_format",
    }
    assert {sample.member for sample in samples} == {"a.png", "b/c.nii.gz", "d.txt"}


def test_every_file_that_nibabel_installs_gives_samples(tmp_path: Path) -> None:
    folder = Path(nib.__file__).parent / "tests" / "data"
    if not folder.is_dir():
        pytest.skip("NOT TESTED: this nibabel comes without its test files")
    outcomes = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        samples = list(read_file(SourceFile(sample_id=path.name, uri=str(path)), REQUEST))
        assert samples, path.name
        outcomes[path.name] = {sample.error_code for sample in samples}
    expected = {None, "unsupported_format", "corrupt", "truncated", "empty_image", "no_pixels", "corrupt_archive"}
    assert set().union(*outcomes.values()) <= expected
    assert outcomes["example4d.nii.gz"] == {None}
    assert outcomes["example_nifti2.nii.gz"] == {None}
