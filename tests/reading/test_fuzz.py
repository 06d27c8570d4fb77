"""Any bytes, and any mutation of real files of each format, give samples and never an exception.

BRAINSCALE_FUZZ=10000 makes it the long run of `make fuzz`.
"""

import bz2
import gzip
import io
import lzma
import os
import resource
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.errors import ERROR_CODES
from brainscale.reading.archives import ALLOWANCE_MIB, read_members
from brainscale.reading.children import decoder_of
from brainscale.reading.file_tables import file_table
from brainscale.reading.reader import read_file, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import COLUMNS
from brainscale.reading.sources import SourceFile
from tests.support.dicom import dataset, written
from tests.support.files import GREY, encoded, streamed, tarred, zipped, zstd
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
    return files | archives(members)


def archives(members: dict[str, bytes]) -> dict[str, bytes]:
    """The same members in archives of every kind."""
    tar, plain = tarred(members), zipped(members, compression=zipfile.ZIP_STORED)
    kinds = {"zip": zipped(members), "zip stored": plain, "zip streamed": streamed(members), "tar": tar}
    kinds |= {"zip bzip2": zipped(members, compression=zipfile.ZIP_BZIP2), "zip in zip": zipped({"in.zip": plain})}
    kinds |= {"zip lzma": zipped(members, compression=zipfile.ZIP_LZMA), "tar GNU": tarred(members, tarfile.GNU_FORMAT)}
    kinds |= {"tar.gz": gzip.compress(tar), "tar.zst": zstd(tar), "tar.xz": lzma.compress(tar)}
    return kinds | {"tar.bz2": bz2.compress(tar), "zip.gz in tar": tarred({"in.zip.gz": gzip.compress(plain)})}


SEEDS = seeds()
PEAKS = [0.0]
ARCHIVES = archives({"a.txt": b"text" * 20, "b/c": bytes(range(256)), "empty": b""})


@st.composite
def mutated(draw: st.DrawFn, seeds: dict[str, bytes] = SEEDS) -> bytes:
    """A real file that was cut, flipped, spliced with another or partly zeroed."""
    data = bytearray(seeds[draw(st.sampled_from(sorted(seeds)))])
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["cut", "flip", "splice", "zero", "insert"])):
            case "cut":
                del data[position:]
            case "flip" if data:
                data[position] ^= 1 << draw(st.integers(0, 7))
            case "splice":
                other = seeds[draw(st.sampled_from(sorted(seeds)))]
                data[position:] = other[draw(st.integers(0, len(other))) :]
            case "zero":
                width = draw(st.integers(1, 64))
                data[position : position + width] = bytes(len(data[position : position + width]))
            case "insert":
                data[position:position] = draw(st.binary(max_size=32))
    return bytes(data)


def decoder_peak() -> float:
    """MiB that the process that decodes has had at most."""
    process = decoder_of(REQUEST)._process
    if process is None:  # the last file ended it
        return 0.0
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next((line.split()[1] for line in lines if line.startswith("VmHWM")), "0")) / 1024


def check_samples(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        samples = list(read_file(SourceFile(sample_id="any", uri=file.name), REQUEST))
    PEAKS.append(max(decoder_peak(), PEAKS.pop()))
    assert samples
    assert len({sample.sample_id for sample in samples}) == len(samples)
    for sample in samples:
        assert (sample.plane is None) == (sample.error_code is not None)
        assert sample.plane is None or sample.plane.shape == (SIDE, SIDE)
        assert sample.error is None or "\n" not in sample.error
        assert sample.sample_id.startswith("any")


@given(st.one_of(st.binary(max_size=600), mutated(), mutated(), mutated(), mutated(ARCHIVES)))
@settings(max_examples=CASES)
def test_any_bytes_give_samples_and_never_an_exception(data: bytes) -> None:
    check_samples(data)


@given(mutated(ARCHIVES))
@settings(max_examples=10 * CASES)
def test_any_damage_of_an_archive_gives_members_once_and_stays_within_its_limits(data: bytes) -> None:
    """In this process, where it is quick enough for ten times as many archives."""
    limits = LimitsConfig(file_mib=1, ratio=10, entries=100)
    members = list(read_members(io.BytesIO(data), len(data), limits))
    assert members
    assert len({member.path for member in members}) == len(members) <= 101
    assert sum(len(member.data or b"") for member in members) < ALLOWANCE_MIB * 2**20 + 11 * len(data)
    for member in members:
        assert (member.data is None) == (member.error is not None)
        assert member.error is None or (member.error.code in ERROR_CODES and "\n" not in member.error.text)


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_each_real_file_gives_samples_that_make_a_table(name: str, tmp_path: Path) -> None:
    check_samples(SEEDS[name])
    path = tmp_path / "file"
    path.write_bytes(SEEDS[name])
    tables = list(read_tables(file_table([SourceFile(sample_id="file", uri=str(path))]), request=REQUEST))
    assert all(table.schema == COLUMNS for table in tables)


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


def test_the_memory_of_both_processes_stays_small() -> None:
    """After all files of this module, of which some claim millions of pixels or unpack to the limit."""
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory: {here:.0f} MiB here, with all tests before; {PEAKS[0]:.0f} MiB in the decoder")  # noqa: T201
    assert PEAKS[0] < 1500
