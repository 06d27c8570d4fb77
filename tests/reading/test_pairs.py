"""A NIfTI header and the image beside it are read as one volume, in folders and in archives, in any order."""

import gzip
import os
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading import pairs, partners
from brainscale.reading.decoder import decode_members
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample
from tests.support.files import tarred, zipped
from tests.support.head import head

REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64, crop=1.0))
VOLUME = np.stack([np.rint(head(48, 40, seed) * 1000) for seed in range(3)], axis=-1).astype(np.int16)
AFFINE = np.diag([-2.0, 2, 3, 1])
KINDS = {"NIfTI-1": (nib.Nifti1Image, nib.Nifti1Pair), "NIfTI-2": (nib.Nifti2Image, nib.Nifti2Pair)}


def pair(kind: str = "NIfTI-1", byte_order: str = "<", volume: np.ndarray = VOLUME) -> tuple[bytes, bytes]:
    """Header and image, as nibabel writes them."""
    cls = KINDS[kind][1]
    image = cls(volume.astype(volume.dtype.newbyteorder(byte_order)), AFFINE, cls.header_class(endianness=byte_order))
    files = cls.make_file_map()
    for holder in files.values():
        holder.fileobj = BytesIO()
    image.to_file_map(files)
    return files["header"].fileobj.getvalue(), files["image"].fileobj.getvalue()


def read(folder: Path) -> dict[str, Sample]:
    return {sample.sample_id: sample for sample in read_samples(folder, REQUEST)}


def check(samples: dict[str, Sample], header: str, image: str, folder: Path) -> None:
    """The slices are those of one .nii file, under the header's name, and the image's row says why it has none."""
    (folder / "whole").mkdir()
    (folder / "whole" / "x.nii").write_bytes(nib.Nifti1Image(VOLUME, AFFINE).to_bytes())
    whole = read(folder / "whole")
    for number in range(3):
        assert np.array_equal(samples[f"{header}#{number}"].plane, whole[f"x.nii#{number}"].plane)
    assert samples[image].error_code == "paired"
    assert len(samples) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("byte_order", "<>")
@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a b#.HDR", "a b#.IMG"), ("a.x.hdr.gz", "a.x.img.gz")])
def test_a_pair_in_a_folder_is_one_volume(kind: str, byte_order: str, names: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in zip(names, pair(kind, byte_order), strict=True):
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    ids = [name.replace("#", "%23") for name in names]
    check(read(folder), *ids, tmp_path)


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("order", ["header first", "image first", "others between"])
def test_a_pair_in_an_archive_is_one_volume(pack: type, order: str, tmp_path: Path) -> None:
    header, image = pair()
    members = {"d/a.hdr": header, "d/a.img": image}
    if order == "image first":
        members = dict(reversed(members.items()))
    if order == "others between":
        members = {"d/a.hdr": header, "b.txt": b"text", "c/a.img": b"no image of a pair", "d/a.img": image}
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "s.zip").write_bytes(pack(members))
    samples = read(folder)
    for name in ("b.txt", "c/a.img"):
        if name in members:
            assert samples.pop(f"s.zip!{name}").error_code == "unsupported_format"
    check(samples, "s.zip!d/a.hdr", "s.zip!d/a.img", tmp_path)


def test_a_pair_whose_name_is_no_text_is_found_by_its_address(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for suffix, content in zip((b"hdr", b"img"), pair(), strict=True):
        Path(os.fsdecode(os.fsencode(folder) + b"/v\xff?." + suffix)).write_bytes(content)
    check(read(folder), "v\\xff?.hdr", "v\\xff?.img", tmp_path)


def test_in_a_store_the_other_file_has_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(uri: str) -> None:
        asked.append(uri)
        raise SampleError("unreadable", "not there")

    monkeypatch.setattr(partners, "open_file", refuse)
    with partners.open_partners("s3://b/a.x/s.hdr.gz?region=eu") as streams:
        assert streams == []
    assert asked == [f"s3://b/a.x/s.img{ending}?region=eu" for ending in (".gz", "")]


def test_both_files_of_a_pair_are_read_by_ranges_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in zip(("a.hdr", "a.img"), pair(), strict=True):
        (folder / name).write_bytes(content)
    monkeypatch.setattr("brainscale.reading.sources._open", lambda uri: BytesIO(Path(uri).read_bytes()))
    check(read(folder), "a.hdr", "a.img", tmp_path)


def test_a_header_or_an_image_alone_is_an_error(tmp_path: Path) -> None:
    header, image = pair()
    (tmp_path / "a.hdr").write_bytes(header)
    (tmp_path / "b.img").write_bytes(image)
    (tmp_path / "c.zip").write_bytes(zipped({"a.hdr": header, "b.img": image, "e.hdr": b"no header"}))
    samples = read(tmp_path)
    assert {name: sample.error_code for name, sample in samples.items()} == dict.fromkeys(
        ("a.hdr", "b.img", "c.zip!a.hdr", "c.zip!b.img", "c.zip!e.hdr"), "unsupported_format"
    )
    assert "put the .img file beside the .hdr file" in (samples["a.hdr"].error or "")


def test_an_image_that_is_too_short_is_truncated(tmp_path: Path) -> None:
    header, image = pair()
    (tmp_path / "a.hdr").write_bytes(header)
    (tmp_path / "a.img").write_bytes(image[:-10])
    assert read(tmp_path)["a.hdr"].error_code == "truncated"


def test_very_many_headers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_HEADERS", 2)
    header, image = pair()
    members = {f"{i}.hdr": header for i in range(4)} | {f"{i}.img": image for i in range(4)}
    joined = pairs.read_with_partners(BytesIO(zipped(members)), (), "", REQUEST.limits)  # type: ignore[arg-type]
    asked = {"file": "a.zip", "wanted": None, "windows": {}, "skip": 0}
    codes: dict[str, set[str | None]] = {}
    for facts, _ in decode_members(joined, asked, REQUEST):
        if "path" in facts:
            (name,) = facts["path"]
        else:
            codes.setdefault(name, set()).add(facts.get("error_code"))
    assert codes["0.hdr"] == codes["1.hdr"] == {"unsupported_format"}
    assert codes["2.img"] == codes["3.img"] == {"paired"}
    assert codes["3.hdr"] == {None}


@pytest.mark.parametrize("offset", [0.0, 64.0, float("nan"), float("inf"), -5.0, 1e30])
def test_voxels_may_begin_later_in_the_image(offset: float) -> None:
    header, image = pair()
    changed = bytearray(header)
    changed[108:112] = np.float32(offset).tobytes()
    joined = nib.Nifti1Image.from_bytes(pairs.join_pair(bytes(changed), bytes(64) * (offset == 64) + image))
    assert np.array_equal(np.asanyarray(joined.dataobj), VOLUME)
