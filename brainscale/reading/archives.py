"""One stream of bytes → the files in it: itself, or the members of an archive, or of archives inside it.

zip, tar, and both or a single file under gzip, bzip2, xz or zstd, told by their content. Nothing is written
anywhere, so a member's name can do no harm; one member at a time is in memory; what comes out is bounded by
what went in.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.sample_ids import as_text, unique_name

HEAD = 512
ALLOWANCE = 64 * 2**20  # bytes that any archive may hold, however small it is
MAX_HEADER = 2**20  # bytes of one member's names and attributes
PIECE = 2**20  # bytes read at a time
XZ_MEMORY = 256 * 2**20  # an xz header may ask for 4 GiB


Stream = Any
"""Something to read bytes from: Python's streams and Arrow's have no type in common."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file in a stream.

    Attributes:
        path: names from the outermost archive inwards, as the archives have them; empty for the stream itself.
        data: its bytes, or None where they could not be had.
        nbytes: declared size, where data is None.
        problem: why data is None.
    """

    path: tuple[str, ...] = ()
    data: bytes | None = None
    nbytes: int | None = None
    problem: SampleError | None = None


Unpack = Callable[..., Iterator[Member]]


class _Budget:
    """Bytes that may still come out of a stream."""

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes

    def spend(self, nbytes: int) -> None:
        self._left -= nbytes
        if self._left < 0:
            raise _SpentError("compression_bomb", "far more comes out of it than went in: reading stopped here")


class _SpentError(SampleError):
    """Ends the whole stream, however deep it was noticed."""


def members(stream: Stream, nbytes: int, limits: LimitsConfig) -> Iterator[Member]:
    """Every file in a stream, in the stream's order, each path once.

    Args:
        stream: of bytes, seekable.
        nbytes: its length.
        limits: of sizes, ratio and depth.

    Yields:
        Members; one that cannot be read has a problem, and so has an archive that ends before its time.
    """
    seen: set[int] = set()
    budget = _Budget(ALLOWANCE + limits.ratio * nbytes)
    try:
        for member in _walk(stream, (), 0, budget, limits):
            if member.path:
                yield Member(**{**vars(member), "path": (*member.path[:-1], unique_name(member.path, seen))})
            else:
                yield member
    except _SpentError as error:
        yield Member(nbytes=nbytes, problem=error)


def _walk(stream: Stream, path: tuple[str, ...], depth: int, budget: _Budget, limits: LimitsConfig) -> Iterator[Member]:
    """The files in a stream that stands at its beginning."""
    buffered: Stream = io.BufferedReader(stream, 2**18)
    try:
        unpack = _unpacker(buffered, path, depth)
        if unpack is None:
            yield _whole(buffered, path, depth, limits)
        else:
            yield from _unpacked(unpack, buffered, path, depth, budget, limits)
    except _SpentError:
        raise
    except SampleError as error:
        yield Member(path=path, problem=error)
    except Exception as error:  # noqa: BLE001 (what damaged archives raise is not one family)
        text = f"the archive cannot be read to its end ({type(error).__name__})"
        yield Member(path=path, problem=SampleError("corrupt_archive", text))
    finally:
        buffered.detach()  # whoever opened the stream closes it


def _unpacked(
    unpack: Unpack, stream: Stream, path: tuple[str, ...], depth: int, budget: _Budget, limits: LimitsConfig
) -> Iterator[Member]:
    if depth == limits.depth:
        raise SampleError("nested_too_deep", f"more than {limits.depth} layers of archives and compression")
    empty = True
    for member in unpack(stream, path, depth, budget, limits):
        empty = False
        yield member
    if empty:
        raise SampleError("empty_archive", "the archive holds no files")


def _unpacker(stream: Stream, path: tuple[str, ...], depth: int) -> Unpack | None:
    with _unpacking(path, depth):
        head = stream.peek(HEAD)[:HEAD]
    return next((unpack for recognises, unpack in _KINDS if recognises(head)), None)


def _whole(stream: Stream, path: tuple[str, ...], depth: int, limits: LimitsConfig) -> Member:
    with _unpacking(path, depth):
        return Member(path=path, data=_bounded(stream, limits))


@contextmanager
def _unpacking(path: tuple[str, ...], depth: int) -> Iterator[None]:
    """Reading the bytes of a member, or of a file that is none: what fails there is its own damage."""
    try:
        yield
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (codecs and file systems raise what they like)
        if depth == 0:
            raise SampleError("unreadable", f"the file cannot be read ({type(error).__name__})") from None
        code = "corrupt_member" if path else "corrupt_archive"
        raise SampleError(code, f"it cannot be unpacked ({type(error).__name__})") from None


def _unzip(
    stream: Stream, path: tuple[str, ...], depth: int, budget: _Budget, limits: LimitsConfig
) -> Iterator[Member]:
    seekable = stream if stream.seekable() else io.BytesIO(_bounded(stream, limits))
    with zipfile.ZipFile(seekable) as archive:
        for info in archive.infolist():
            here = (*path, as_text(info.filename))
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                yield Member(path=here, nbytes=info.file_size, problem=SampleError("encrypted", "it has a password"))
                continue
            try:
                with _unpacking(here, depth + 1):
                    member = archive.open(info)
            except SampleError as error:
                yield Member(path=here, nbytes=info.file_size, problem=error)
                continue
            with member:
                yield from _walk(_Forward(member, budget), here, depth + 1, budget, limits)


def _untar(
    stream: Stream, path: tuple[str, ...], depth: int, budget: _Budget, limits: LimitsConfig
) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarHeader, errors="surrogateescape") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            if info.isdir():
                continue
            here = (*path, as_text(info.name))
            content = archive.extractfile(info) if info.isreg() else None
            if content is None:
                yield Member(path=here, problem=SampleError("not_a_file", "a link or a device, not a file"))
            else:
                yield from _walk(_Forward(content), here, depth + 1, budget, limits)


class _TarHeader(tarfile.TarInfo):
    """A header of bounded size, whose damage is an error and not the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "_TarHeader":
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the archive's end mark
            raise
        except tarfile.HeaderError:
            raise SampleError("corrupt_archive", "a header is damaged or cut off: nothing after it is read") from None

    def _proc_member(self, tarfile_: tarfile.TarFile) -> Any:
        names = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX)
        if self.type in names and self.size > MAX_HEADER:
            raise SampleError("corrupt_archive", f"a header of {self.size} bytes: nothing after it is read")
        return super()._proc_member(tarfile_)  # type: ignore[misc]


_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _unpack_with(opened: Callable[[Stream], Stream]) -> Unpack:
    """A single file under compression: its content stands in its place, whatever that is."""

    def unpack(
        stream: Stream, path: tuple[str, ...], depth: int, budget: _Budget, limits: LimitsConfig
    ) -> Iterator[Member]:
        yield from _walk(_Forward(opened(stream), budget), path, depth + 1, budget, limits)

    return unpack


class _Forward(io.RawIOBase):
    """A stream that is read once, from its beginning; with a budget, its bytes are paid for."""

    def __init__(self, inner: Any, budget: _Budget | None = None) -> None:
        # read1 gives what there is; read would wait for all of it, and lose it where a stream is cut off.
        self._read, self._budget = getattr(inner, "read1", inner.read), budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        if self._budget:
            self._budget.spend(len(data))
        buffer[: len(data)] = data
        return len(data)


class _Xz(io.RawIOBase):
    """Like lzma.LZMAFile, but with a bound on the decoder's memory."""

    def __init__(self, inner: Stream) -> None:
        self._inner = inner
        self._decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)

    def read(self, size: int = -1) -> bytes:
        while True:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._inner.read(2**16)
                if not rest.strip(b"\0"):
                    return b""
                self._decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
            else:
                rest = self._inner.read(2**16) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not rest:
                    raise EOFError("cut off")
            if data := self._decoder.decompress(rest, size):
                return data


def _bounded(stream: Stream, limits: LimitsConfig) -> bytes:
    """All that is left of a stream; asked for piecewise, since a buffer for the most allowed would be made first."""
    pieces: list[bytes] = []
    nbytes = 0
    while piece := stream.read(PIECE):
        nbytes += len(piece)
        if nbytes > limits.nbytes:
            raise SampleError("file_too_large", f"more than {limits.file_mib} MiB")
        pieces.append(piece)
    return b"".join(pieces)


def _is_tar(head: bytes) -> bool:
    if head[257:262] == b"ustar":
        return True
    try:  # the oldest tar has no magic, but a checksum
        return len(head) == HEAD and any(head) and bool(tarfile.TarInfo.frombuf(head, "utf-8", "replace").name)
    except tarfile.HeaderError:
        return False


_KINDS: tuple[tuple[Callable[[bytes], bool], Unpack], ...] = (
    (lambda head: head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")), _unzip),
    (lambda head: head.startswith(b"\x1f\x8b"), _unpack_with(lambda s: gzip.GzipFile(fileobj=s))),
    (lambda head: head.startswith(b"BZh"), _unpack_with(bz2.BZ2File)),
    (lambda head: head.startswith(b"\xfd7zXZ\0"), _unpack_with(_Xz)),
    (
        lambda head: head.startswith(b"\x28\xb5\x2f\xfd"),
        _unpack_with(lambda s: pa.CompressedInputStream(pa.PythonFile(_Forward(s), mode="r"), "zstd")),
    ),
    (_is_tar, _untar),
)
