"""Zip archives by entries: as Python's zipfile has them, and without the directory at their end."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.config.data_sections import LimitsConfig
from brainscale.reading.archives import read_members
from tests.support.files import streamed, tarred, zipped

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
FILES = {"a.png": b"one" * 5000, "b/c": bytes(range(256)) * 40, "b/empty": b"", "d": b"x" + b"PK\x03\x04" * 20}


def members(data: bytes, **limits: int) -> dict[str, bytes | str | None]:
    read = read_members(io.BytesIO(data), len(data), LimitsConfig(**limits))
    return {"!".join(m.path): m.error.code if m.error else m.data for m in read}


def by_zipfile(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}


names = st.text(st.characters(exclude_characters="\0\\/", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(
    st.dictionaries(names, st.binary(max_size=300).map(lambda data: b"." + data), min_size=1, max_size=6),
    st.sampled_from(METHODS),
    st.binary(max_size=40),
    st.booleans(),
)
@settings(max_examples=200)
def test_any_archive_has_the_entries_that_zipfile_finds(
    files: dict[str, bytes], method: int, comment: bytes, one_way: bool
) -> None:
    data = streamed(files, method) if one_way else zipped(files, compression=method)
    with_comment = data[:-2] + struct.pack("<H", len(comment)) + comment
    if b"PK\x05\x06" not in comment:
        assert members(with_comment) == by_zipfile(with_comment) == files


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("one_way", [False, True])
def test_an_archive_without_its_directory_gives_every_member(method: int, one_way: bool) -> None:
    data = streamed(FILES, method) if one_way else zipped(FILES, compression=method)
    cut = data[: data.index(b"PK\x01\x02")]
    assert members(cut) == {**FILES, "": "corrupt_archive"}
    assert members(cut + bytes(200)) == {**FILES, "": "corrupt_archive"}


def test_sizes_behind_a_member_need_no_mark() -> None:
    files = {name: data for name, data in FILES.items() if name != "d"}
    data = streamed(files, marked=False)
    assert members(data[: data.index(b"PK\x01\x02")]) == {**files, "": "corrupt_archive"}


@given(st.data(), st.sampled_from(METHODS), st.booleans())
@settings(max_examples=100)
def test_an_archive_cut_anywhere_gives_the_members_before_the_cut(data: st.DataObject, method: int, way: bool) -> None:
    """Stored members are random, so that nothing in them looks like a header."""
    files = {str(i): bytes([i + 1]) * (i * 50) for i in range(6)}
    whole = streamed(files, method) if way else zipped(files, compression=method)
    cut = data.draw(st.integers(100, len(whole) - 1))
    starts = [info.header_offset for info in zipfile.ZipFile(io.BytesIO(whole)).infolist() if not info.is_dir()]
    read = members(whole[:cut])
    assert read.pop("", None) == (None if cut >= whole.index(b"PK\x05\x06") + 4 else "corrupt_archive")
    before = sum(start <= cut for start in [*starts[1:], whole.index(b"PK\x01\x02")])  # the next header begins there
    assert list(read.items())[:before] == list(files.items())[:before]
    assert set(map(type, list(read.values())[before:])) <= {str, bytes}


def test_an_archive_in_a_compressed_file_that_is_cut_off_gives_the_members_before_the_cut() -> None:
    noise = np.random.default_rng(0).bytes
    files = {str(i): noise(30_000) for i in range(20)}
    for data in (gzip.compress(zipped(files)), gzip.compress(tarred({"in.zip": zipped(files)}))):
        read = members(data[: len(data) // 2])
        whole = [content for content in read.values() if isinstance(content, bytes)]
        assert whole == list(files.values())[: len(whole)]
        assert len(whole) >= 8
        assert set(list(read.values())[len(whole) :]) == {"corrupt_member", "corrupt_archive"}


def test_a_damaged_directory_costs_no_member() -> None:
    data = bytearray(zipped(FILES))
    data[data.index(b"PK\x01\x02", data.index(b"b/empty", data.index(b"PK\x01\x02"))) + 1] = 0
    assert members(bytes(data)) == {**FILES, "": "corrupt_archive"}


@pytest.mark.parametrize("behind", [b"\n", b"x" * 300_000])
def test_what_stands_behind_an_archive_costs_nothing(behind: bytes) -> None:
    assert members(zipped(FILES) + behind) == FILES


def test_an_archive_behind_another_hides_neither() -> None:
    assert members(zipped({"first": b"1"}) + zipped(FILES)) == {"first": b"1", **FILES}
    assert members(zipped({"first": b"1"}) + b"between" + zipped(FILES)) == {"first": b"1", **FILES}


def test_an_archive_that_is_cut_behind_an_archive_in_it_is_not_taken_for_that_one() -> None:
    """The record at the end is the inner archive's."""
    whole = zipped({"first": b"1", "in.zip": zipped(FILES), "last": b"2"}, compression=zipfile.ZIP_STORED)
    cut = whole[: whole.rindex(b"PK\x03\x04")]
    assert members(cut) == {"first": b"1", **{f"in.zip!{k}": v for k, v in FILES.items()}, "": "corrupt_archive"}


def test_more_than_65535_entries_and_64_bit_sizes() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i in range(66_000):
            archive.writestr(zipfile.ZipInfo(str(i)), b"")
        with archive.open("large", "w", force_zip64=True) as file:
            file.write(b"content")
    data = out.getvalue()
    assert len(read := members(data)) == 66_001
    assert read["large"] == b"content"
    assert members(data, entries=1000)[""] == "too_many_entries"


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (98, "PPMd"), (77, "method 77")])
def test_a_compression_without_decoder_is_named(method: int, name: str) -> None:
    data = bytearray(zipped({"a": b"x" * 100, "b": b"fine"}))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.index(signature, data.index(signature) + 1)  # after the folder's
        data[start + offset : start + offset + 2] = struct.pack("<H", method)
    odd, fine = read_members(io.BytesIO(bytes(data)), len(data), LimitsConfig())
    assert odd.error
    assert (odd.error.code, name in odd.error.text) == ("unsupported_compression", True)
    assert fine.data == b"fine"


def test_a_directory_of_many_entries_is_not_held_in_memory() -> None:
    """46 bytes an entry, all of them the same empty member: zipfile needs 120 MB for these."""
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"/"
    count = 200_000
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(central) * count, len(local))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(local) + len(central) * count, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    data = local + central * count + end64 + locator + end
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        assert [m.error and m.error.code for m in read_members(stream, len(data), LimitsConfig())] == ["empty_archive"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 2**20
