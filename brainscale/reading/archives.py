"""A stream of bytes → the files in it: itself, or the members of an archive, or of archives inside it.

zip, tar, and both or a single file under gzip, bzip2, xz or zstd, recognised by content. Nothing is written to
disk, so the name of a member can do no harm; one member at a time is in memory; the entries of a file are limited,
and the bytes that come out by the bytes that go in. An archive that is damaged or cut off gives its whole members,
then an error. All this runs in the child process of `sandbox`.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.decompression import (
    BZIP2,
    GZIP,
    XZ,
    ZSTD,
    Stream,
    open_bzip2,
    open_gzip,
    open_xz,
    open_zstd,
)
from brainscale.reading.sample_ids import as_text, unique_name
from brainscale.reading.zip_entries import ZIP, ZipEntry, list_entries, open_entry

HEAD_NBYTES = 512  # tell the kind of archive; a tar header is as long
ALLOWANCE_MIB = 64  # that may come out of any archive, however small it is
MAX_HEADER_NBYTES = 2**20  # of one member's names and attributes
CHUNK_NBYTES = 2**20  # read at a time
IGNORED = "bytes behind the end of the compressed file are ignored"
"""Note on a file that was read."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file in a stream.

    Attributes:
        path: names from the outermost archive inwards, as the archives have them; empty for the stream itself.
        data: its bytes; None where they cannot be read.
        nbytes: declared size, where data is None.
        error: why data is None.
        note: what is odd about a file that was read all the same.
        skipped: whether only the name counts, since another reading of the archive has the file.
    """

    path: tuple[str, ...] = ()
    data: bytes | None = None
    nbytes: int | None = None
    error: SampleError | None = None
    note: str | None = None
    skipped: bool = False


Unpack = Callable[..., Iterator[Member]]


class Budget:
    """Bytes and entries of archives that may still come out of a stream.

    Args:
        nbytes: size of the stream.
        limits: of ratio and entries.
    """

    def __init__(self, nbytes: int, limits: LimitsConfig) -> None:
        self._remaining = ALLOWANCE_MIB * 2**20 + limits.ratio * nbytes
        self._ratio = limits.ratio
        self._entries = self._max_entries = limits.entries

    def count_entry(self) -> None:
        """Count one more entry; too many end the whole stream."""
        self._entries -= 1
        if self._entries < 0:
            text = f"the archive has more than limits.entries = {self._max_entries} entries; the rest is not read"
            raise _BudgetError("too_many_entries", text)

    def spend(self, nbytes: int) -> None:
        """Count bytes that came out; too many end the whole stream."""
        self._remaining -= nbytes
        if self._remaining < 0:
            text = f"the file unpacks to more than limits.ratio = {self._ratio} times its size; the rest is not read"
            raise _BudgetError("compression_bomb", text)


class _BudgetError(SampleError):
    """Ends the whole stream, however deep in it the budget ran out."""


def is_archive(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (512) is an archive or compressed."""
    return any(recognises(head[:HEAD_NBYTES]) for recognises, _ in _KINDS)


def read_members(stream: Stream, nbytes: int, limits: LimitsConfig, unpack: Unpack | None = None) -> Iterator[Member]:
    """Read every file in a stream, in the stream's order; each path comes once.

    Args:
        stream: of bytes, seekable.
        nbytes: its length.
        limits: of sizes, ratio and depth.
        unpack: reads a portion of the stream, which may have no files; by default, all is read.

    Yields:
        Members. A member that cannot be read has an error; so has an archive that is damaged or cut off.
    """
    path_hashes: set[int] = set()
    try:
        for member in _walk(stream, (), 0, Budget(nbytes, limits), limits, unpack):
            if member.path:
                name = unique_name(member.path, path_hashes)
                if not member.skipped:
                    yield replace(member, path=(*member.path[:-1], name))
            else:
                yield member
    except _BudgetError as error:
        yield Member(nbytes=nbytes, error=error)


def _walk(
    stream: Stream,
    path: tuple[str, ...],
    depth: int,
    budget: Budget,
    limits: LimitsConfig,
    unpack_portion: Unpack | None = None,
) -> Iterator[Member]:
    """Read the files in a stream that stands at its beginning."""
    buffered: Stream = io.BufferedReader(stream, 2**18)
    try:
        unpack = None if unpack_portion else _unpacker(buffered, path, depth)
        if unpack_portion:
            yield from unpack_portion(buffered, path, depth, budget, limits)
        elif unpack is None:
            yield _read_whole(buffered, path, depth, limits)
        else:
            yield from _unpack_archive(unpack, buffered, path, depth, budget, limits)
    except _BudgetError:
        raise
    except SampleError as error:
        yield Member(path=path, error=error)
    except MemoryError:
        text = f"unpacking needs more than limits.memory_mib = {limits.memory_mib}"
        yield Member(path=path, error=SampleError("out_of_memory", text))
    except Exception as error:  # noqa: BLE001 (what damaged archives raise is not one family)
        text = f"the archive cannot be read to its end ({type(error).__name__})"
        yield Member(path=path, error=SampleError("corrupt_archive", text))
    finally:
        buffered.detach()  # whoever opened the stream closes it


def _unpack_archive(
    unpack: Unpack, stream: Stream, path: tuple[str, ...], depth: int, budget: Budget, limits: LimitsConfig
) -> Iterator[Member]:
    if depth == limits.depth:
        raise SampleError("nested_too_deep", f"archives inside archives exceed limits.depth = {limits.depth}")
    empty = True
    for member in unpack(stream, path, depth, budget, limits):
        empty = False
        yield member
    if empty:
        raise SampleError("empty_archive", "the archive holds no files")


def _unpacker(stream: Stream, path: tuple[str, ...], depth: int) -> Unpack | None:
    with _read_errors(path, depth):
        head = stream.peek(HEAD_NBYTES)[:HEAD_NBYTES]
    return next((unpack for recognises, unpack in _KINDS if recognises(head)), None)


def _read_whole(stream: Stream, path: tuple[str, ...], depth: int, limits: LimitsConfig) -> Member:
    with _read_errors(path, depth):
        return Member(path=path, data=_read_limited(stream, limits))


@contextmanager
def _read_errors(path: tuple[str, ...], depth: int) -> Iterator[None]:
    """Turn what fails while the bytes of one file are read into an error of that file."""
    try:
        yield
    except (SampleError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (codecs and file systems raise what they like)
        if depth == 0:
            raise SampleError("unreadable", f"the file cannot be read ({type(error).__name__})") from None
        code, kind = ("corrupt_member", "member") if path else ("corrupt_archive", "archive")
        raise SampleError(code, f"the {kind} cannot be unpacked ({type(error).__name__})") from None


def _unzip(stream: Stream, path: tuple[str, ...], depth: int, budget: Budget, limits: LimitsConfig) -> Iterator[Member]:
    seekable = stream if stream.seekable() else io.BytesIO(_read_before_damage(stream, limits))
    for entry in list_entries(seekable):
        budget.count_entry()
        if not entry.is_folder:
            yield from unpack_entry(seekable, entry, path, depth, budget, limits)


def unpack_entry(
    stream: Stream, entry: ZipEntry, path: tuple[str, ...], depth: int, budget: Budget, limits: LimitsConfig
) -> Iterator[Member]:
    """Read the file of one entry of a zip archive, or the files in it."""
    member_path = (*path, as_text(entry.name))
    try:
        with _read_errors(member_path, depth + 1):
            content = open_entry(stream, entry)
    except SampleError as error:
        yield Member(path=member_path, nbytes=entry.nbytes, error=error)
        return
    yield from _walk(_Forward(content, budget), member_path, depth + 1, budget, limits)


def _untar(stream: Stream, path: tuple[str, ...], depth: int, budget: Budget, limits: LimitsConfig) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarHeader, errors="surrogateescape") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            budget.count_entry()
            if info.isdir():
                continue
            member_path = (*path, as_text(info.name))
            content = archive.extractfile(info) if info.isreg() else None
            if content is None:
                yield Member(path=member_path, error=SampleError("not_a_file", "a link or a device, not a file"))
            else:
                holes = budget if info.issparse() else None  # bytes that are nowhere in the archive
                yield from _walk(_Forward(content, holes), member_path, depth + 1, budget, limits)


class _TarHeader(tarfile.TarInfo):
    """A header of limited size, whose damage is an error and not the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_TarHeader":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the archive's end mark
            raise
        except tarfile.HeaderError:
            text = "a header is damaged or cut off; members after it are not read"
            raise SampleError("corrupt_archive", text) from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Any:
        extended = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX)
        if extended and self.size > MAX_HEADER_NBYTES:
            text = f"a header of {self.size} bytes, more than {MAX_HEADER_NBYTES}; members after it are not read"
            raise SampleError("corrupt_archive", text)
        return super()._proc_member(tarfile_)  # type: ignore[misc]


_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _decompress_with(open_stream: Callable[[Stream], Stream]) -> Unpack:
    """Return a function that unpacks a single compressed file: its content is read as if it were the file."""

    def unpack(
        stream: Stream, path: tuple[str, ...], depth: int, budget: Budget, limits: LimitsConfig
    ) -> Iterator[Member]:
        content = open_stream(stream)
        for member in _walk(_Forward(content, budget), path, depth + 1, budget, limits):
            yield replace(member, note=IGNORED) if content.ignored and member.path == path else member

    return unpack


class _Forward(io.RawIOBase):
    """A stream that is read once, from its beginning; what is read is taken from the budget, if there is one."""

    def __init__(self, inner: Any, budget: Budget | None = None) -> None:
        # read1 gives what is at hand; read would wait for all of it, and lose it where a stream is cut off.
        self._read, self._budget = getattr(inner, "read1", inner.read), budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        if self._budget:
            self._budget.spend(len(data))
        buffer[: len(data)] = data
        return len(data)


def _read_limited(stream: Stream, limits: LimitsConfig) -> bytes:
    """Read the rest of a stream in chunks: one read up to the limit would first make a buffer as large as it."""
    return _join(iter(lambda: stream.read(CHUNK_NBYTES), b""), limits)


def _read_before_damage(stream: Stream, limits: LimitsConfig) -> bytes:
    """Read the rest of a stream, or what comes before a damage."""

    def chunks() -> Iterator[bytes]:
        try:
            while chunk := stream.read1(CHUNK_NBYTES):  # read would lose what it has when it meets the damage
                yield chunk
        except (SampleError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 (as in _read_errors)
            return

    return _join(chunks(), limits)


def _join(chunks: Iterator[bytes], limits: LimitsConfig) -> bytes:
    kept: list[bytes] = []
    nbytes = 0
    for chunk in chunks:
        nbytes += len(chunk)
        if nbytes > limits.nbytes:
            raise SampleError("file_too_large", f"the file exceeds limits.file_mib = {limits.file_mib}")
        kept.append(chunk)
    return b"".join(kept)


def _is_tar(head: bytes) -> bool:
    if head[257:262] == b"ustar":
        return True
    try:  # the oldest tar has no magic, but a checksum
        return len(head) == HEAD_NBYTES and any(head) and bool(tarfile.TarInfo.frombuf(head, "utf-8", "replace").name)
    except tarfile.HeaderError:
        return False


_KINDS: tuple[tuple[Callable[[bytes], bool], Unpack], ...] = (
    (lambda head: head.startswith(ZIP), _unzip),
    (lambda head: head.startswith(GZIP), _decompress_with(open_gzip)),
    (lambda head: head.startswith(BZIP2), _decompress_with(open_bzip2)),
    (lambda head: head.startswith(XZ), _decompress_with(open_xz)),
    (lambda head: head.startswith(ZSTD), _decompress_with(open_zstd)),
    (_is_tar, _untar),
)
