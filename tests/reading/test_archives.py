"""Archives as streams: every member, whatever is around it, and nothing beyond the limits."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from brainscale.config.data_sections import LimitsConfig
from brainscale.reading.archives import Member, read_members
from tests.support.files import tarred, zipped, zstd

FILES = {"a.png": b"one", "b/c": b"two" * 1000, "b/empty": b"", "../../etc/evil": b"three"}


def walk(data: bytes, **limits: int) -> list[Member]:
    return list(read_members(io.BytesIO(data), len(data), LimitsConfig(**limits)))


def contents(data: bytes) -> dict[tuple[str, ...], bytes | None]:
    return {member.path: member.data for member in walk(data)}


def codes(data: bytes, **limits: int) -> list[tuple[tuple[str, ...], str | None]]:
    return [(m.path, m.error and m.error.code) for m in walk(data, **limits)]


COMPRESSIONS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstd]
each_compression = pytest.mark.parametrize("compress", COMPRESSIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")


@pytest.mark.parametrize("data", [zipped(FILES), tarred(FILES), tarred(FILES, tarfile.GNU_FORMAT)])
def test_every_member_comes_with_its_bytes(data: bytes) -> None:
    assert contents(data) == {(name,): content for name, content in FILES.items()}


def test_a_tar_of_the_oldest_kind_without_magic_is_recognised() -> None:
    data = bytearray(tarred({"a": b"x"}, tarfile.USTAR_FORMAT))
    while (start := data.find(b"ustar")) >= 0:
        block = start - 257
        data[start : start + 8] = bytes(8)
        data[block + 148 : block + 156] = b" " * 8
        data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    assert contents(bytes(data)) == {("a",): b"x"}


@each_compression
def test_a_compressed_file_or_archive_is_unpacked(compress: Callable[[bytes], bytes]) -> None:
    assert contents(compress(b"plain" * 100)) == {(): b"plain" * 100}
    assert contents(compress(tarred(FILES))) == {(name,): content for name, content in FILES.items()}
    assert contents(compress(b"one") + compress(b"two")) == {(): b"onetwo"}


@each_compression
@pytest.mark.parametrize("behind", [b"checksum: ok\n", b"\0" * 512, b"\0" * 7 + b"x", b"y" * 300_000])
def test_what_stands_behind_a_compressed_file_costs_a_note_at_most(
    compress: Callable[[bytes], bytes], behind: bytes
) -> None:
    (member,) = walk(compress(b"one") + compress(b"two") + behind)
    assert member.data == b"onetwo"
    assert member.note == ("bytes behind the end of the compressed file are ignored" if behind.strip(b"\0") else None)
    assert contents(compress(tarred(FILES)) + behind) == {(name,): content for name, content in FILES.items()}


@each_compression
def test_a_compressed_file_that_is_cut_off_is_an_error(compress: Callable[[bytes], bytes]) -> None:
    whole = compress(np.random.default_rng(0).bytes(5000))
    for length in (len(whole) // 2, len(whole) - 5):
        assert codes(whole[:length]) == [((), "corrupt_archive")]


def test_zstd_frames_without_content_are_left_out() -> None:
    skippable = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
    assert contents(zstd(b"one") + skippable + zstd(b"two")) == {(): b"onetwo"}


def test_archives_inside_archives_keep_their_path_and_their_depth() -> None:
    inner = zipped({"x.png": b"deep"})
    for outer in (tarred({"in.zip": inner, "after": b"y"}), zipped({"in.zip": inner, "after": b"y"})):
        assert contents(gzip.compress(outer)) == {("in.zip", "x.png"): b"deep", ("after",): b"y"}
        members = codes(gzip.compress(outer), depth=2)
        assert members == [(("in.zip",), "nested_too_deep"), (("after",), None)]


def test_a_name_that_comes_again_gets_a_number() -> None:
    first, second = tarred({"a": b"1", "a~2": b"2"}), tarred({"a": b"3"})
    joined = first[: 512 * 5] + second[512:]  # a folder and two files, then the other's file and end
    assert contents(joined) == {("a",): b"1", ("a~2",): b"2", ("a~3",): b"3"}


def test_a_name_that_is_no_text_is_shown_as_text() -> None:
    ((name,),) = contents(tarred({b"caf\xe9\n.png".decode("utf-8", "surrogateescape"): b"x"}, tarfile.GNU_FORMAT))
    assert name == "caf\\xe9\n.png"
    name.encode()


def test_links_are_errors_and_not_followed() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert codes(out.getvalue()) == [(("link",), "not_a_file")]


def test_a_damaged_member_costs_no_other() -> None:
    data = bytearray(zipped({"a": bytes(range(256)) * 50, "b": b"fine"}, compression=zipfile.ZIP_STORED))
    data[data.index(bytes(range(256))) + 100] ^= 255
    assert codes(bytes(data)) == [(("a",), "corrupt_member"), (("b",), None)]


def test_an_encrypted_member_is_an_error_of_its_own() -> None:
    data = bytearray(zipped({"a": b"secret", "b": b"open"}))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # after the folder's
    data[entry + 8] |= 1
    assert codes(bytes(data)) == [(("a",), "encrypted"), (("b",), None)]


@pytest.mark.parametrize("method", [1, 6, 9, 93, 95, 98])
def test_a_member_compressed_by_another_method_is_an_error_of_its_own(method: int) -> None:
    data = bytearray(zipped({"a": b"deflate64", "b": b"fine"}))
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)  # after the folder's
    data[entry + 10] = method
    assert codes(bytes(data)) == [(("a",), "unsupported_compression"), (("b",), None)]


@pytest.mark.parametrize("behind", [b"checksum: ok\n", bytes(512), bytes(70_000) + b"text", b"\x1f", b"\0\x1fx"])
@pytest.mark.parametrize("content", [b"plain" * 100, bytes(3 * 2**20), b""])
def test_text_and_zeros_behind_a_gzip_stream_are_left_out(behind: bytes, content: bytes) -> None:
    whole = gzip.compress(content)
    assert contents(whole + behind) == {(): content}
    assert contents(whole + bytes(1000) + whole + behind) == {(): content * 2}


def test_a_damaged_gzip_stream_is_an_error() -> None:
    whole = bytearray(gzip.compress(b"plain" * 100))
    for data in (whole[:-1], whole[:-8], whole[:20], whole[:-8] + bytes(8)):
        assert codes(bytes(data)) == [((), "corrupt_archive")]
    assert codes(bytes(whole) + bytes(whole[:15])) == [((), "corrupt_archive")]


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.8])
def test_an_archive_that_was_cut_off_ends_with_an_error(cut: float) -> None:
    noise = np.random.default_rng(0).bytes
    whole = tarred({f"{i}": noise(20_000) for i in range(20)})
    for data in (whole, gzip.compress(whole)):
        members = codes(data[: int(len(data) * cut)])
        assert members[-1] == ((), "corrupt_archive")
        assert [code for _, code in members[:-1]] in (
            [None] * (len(members) - 1),
            [None] * (len(members) - 2) + ["corrupt_member"],
        )
        assert len(members) > 20 * cut - 2


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end() -> None:
    data = bytearray(tarred({"a": b"1", "b": b"2", "c": b"3"}))
    header = data.index(b"b\0\0\0")
    data[header + 150] ^= 1
    assert codes(bytes(data)) == [(("a",), None), ((), "corrupt_archive")]


def test_an_archive_without_files_is_named() -> None:
    for data in (zipped({}), tarred({})):
        assert codes(data) == [((), "empty_archive")]


@each_compression
def test_a_bomb_is_stopped(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(70 * 2**20))
    assert codes(bomb, ratio=1) == [((), "compression_bomb")]
    assert codes(bomb, file_mib=1) == [((), "file_too_large")]


def test_a_bomb_of_many_members_is_stopped_in_the_middle() -> None:
    bomb = zipped({str(i): bytes(9 * 2**20) for i in range(10)})
    members = codes(bomb, ratio=1)
    assert members[-1] == ((), "compression_bomb")
    assert 0 < len(members) < 10


def test_a_sparse_tar_is_no_way_round_the_limits() -> None:
    """5 KiB that claim a file of 3.9 GiB, of which only one block is there."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("sparse.nii")
        data = b"1\n4187593000\n512\n".ljust(512, b"\0") + bytes(512)
        info.size = len(data)
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "4187593512"}
        archive.addfile(info, io.BytesIO(data))
    assert codes(out.getvalue()) == [((), "compression_bomb")]


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: gzip.compress(tarred(files))])
def test_an_archive_of_too_many_entries_is_not_read_to_its_end(pack: Callable[[dict[str, bytes]], bytes]) -> None:
    members = codes(pack({str(i): b"x" for i in range(50)}), entries=20)  # a folder is an entry too
    assert members == [((str(i),), None) for i in range(19)] + [((), "too_many_entries")]


def test_memory_that_is_not_there_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stream: object, limits: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr("brainscale.reading.archives._read_limited", refuse)
    assert codes(tarred({"a": b"x"})) == [(("a",), "out_of_memory")]


def test_a_header_that_asks_for_memory_is_refused() -> None:
    long = tarfile.TarInfo("x" * 2_000_000)
    data = long.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
    assert codes(data) == [((), "corrupt_archive")]


def test_a_disk_that_fails_is_not_taken_for_a_damaged_file() -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    (member,) = read_members(Broken(), 100, LimitsConfig())
    assert (member.path, str(member.error)) == ((), "unreadable: the file cannot be read (OSError)")


class LargeTar(io.RawIOBase):
    """A tar of `count` members of 4 MiB, made as it is read."""

    def __init__(self, count: int) -> None:
        self._blocks = self._tar(count)
        self._rest = b""

    def _tar(self, count: int) -> Iterator[bytes]:
        for i in range(count):
            info = tarfile.TarInfo(f"{i}.dcm")
            info.size = 2**22
            yield info.tobuf()
            yield bytes(2**22)
        yield bytes(10240)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._blocks, b"")
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def test_a_large_archive_needs_the_memory_of_its_largest_member() -> None:
    tracemalloc.start()
    try:
        assert (
            sum(len(member.data or b"") for member in read_members(LargeTar(250), 2**30, LimitsConfig())) == 250 * 2**22
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20
