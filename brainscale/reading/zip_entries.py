"""Zip archives, entry by entry: by the directory at their end, or by the members' own headers where that is gone.

The directory is read in pieces, so that an archive of many entries needs no more memory than one of few. Python's
zipfile gives the same entries, but holds eight times the directory in memory, and gives up without it.
"""

import bz2
import io
import lzma
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from brainscale.errors import SampleError
from brainscale.reading.decompression import CHUNK_NBYTES, Decoder, Inflater, Stream

LOCAL, CENTRAL, END, DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x07\x08"
ZIP = (LOCAL, END, DESCRIPTOR)
"""What an archive begins with."""
_END64, _LOCATOR64, _SIGNED = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x05"
_LOCAL_HEADER, _CENTRAL_HEADER = struct.Struct("<4x2x2H4x3L2H"), struct.Struct("<4x4x2H4x3L3H8xL")
_END_RECORD, _END64_RECORD = struct.Struct("<4xH4xH2L2x"), struct.Struct("<32x3Q")
_SIZES, _SIZES64 = struct.Struct("<3L"), struct.Struct("<L2Q")  # CRC and sizes behind a member
_LOCAL_HEADERS = re.compile(re.escape(LOCAL))
_HEADERS = re.compile(b"PK(?:\x03\x04|\x01\x02)")
_HEADERS_OR_DESCRIPTORS = re.compile(b"PK(?:\x03\x04|\x01\x02|\x07\x08)")
_ZIP64_NBYTES = 76  # of the 64-bit end record and its locator
MAX_COMMENT_NBYTES = 2**16  # behind the end record
UNKNOWN = 2**32 - 1  # size or offset that stands in the 64-bit field
ENCRYPTED, SIZES_BEHIND, PATCHED, UTF8 = 0x1, 0x8, 0x20, 0x800  # flags
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}
"""Names of methods that have no decoder here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipEntry:
    """One entry of a zip archive.

    Attributes:
        name: with forward slashes; that of a folder ends with one.
        flags: general purpose flags.
        method: compression method.
        crc: CRC-32 of the content.
        nbytes: size of the content.
        encoded_nbytes: its size in the archive.
        offset: position of the entry's own header.
    """

    name: str
    flags: int
    method: int
    crc: int
    nbytes: int
    encoded_nbytes: int
    offset: int

    @property
    def is_folder(self) -> bool:
        """Return whether the entry is a folder, which has no content."""
        return self.name.endswith("/")


class Directory(NamedTuple):
    """Where the directory of an archive begins, and how many entries it says that it has."""

    start: int
    entries: int


class _Sizes(NamedTuple):
    crc: int
    encoded_nbytes: int
    nbytes: int


def list_entries(stream: Stream) -> Iterator[ZipEntry]:
    """Yield the entries of an archive.

    Args:
        stream: the archive, seekable.

    Raises:
        SampleError: `corrupt_archive`, after the last entry, where the directory is cut off or damaged.
    """
    directory = find_directory(stream)
    if directory is not None and _is_whole(stream, directory.start, directory.entries):
        for header, variable in central_headers(stream, directory.start):
            yield central_entry(header, variable)
    else:
        yield from _scan(stream)


def open_entry(stream: Stream, entry: ZipEntry) -> "_Content":
    """Return the content of an entry, to be read once.

    Raises:
        SampleError: `encrypted`, `unsupported_compression` or `corrupt_member`.
    """
    if entry.flags & ENCRYPTED:
        raise SampleError("encrypted", "the member is protected by a password")
    if entry.method not in (STORED, DEFLATED, BZIP2, LZMA) or entry.flags & PATCHED:
        name = METHODS.get(entry.method, f"method {entry.method}")
        raise SampleError("unsupported_compression", f"no decoder for the member's compression ({name})")
    stream.seek(entry.offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(LOCAL):
        raise SampleError("corrupt_member", "the member's own header is missing or damaged")
    *_, name_nbytes, extra_nbytes = _LOCAL_HEADER.unpack(header)
    return _Content(stream, entry, entry.offset + _LOCAL_HEADER.size + name_nbytes + extra_nbytes)


class _Span(io.RawIOBase):
    """Bytes of a stream from a position on; others may read the stream in between."""

    def __init__(self, stream: Stream, start: int, nbytes: int | None = None) -> None:
        self._stream, self._position, self._stop = stream, start, None if nbytes is None else start + nbytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._stop is not None:
            size = min(size, self._stop - self._position)
        self._stream.seek(self._position)
        data: bytes = self._stream.read(size)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Content(io.RawIOBase):
    """The content of an entry; its size and CRC are checked at its end."""

    def __init__(self, stream: Stream, entry: ZipEntry, start: int) -> None:
        self._encoded, self._entry = _Span(stream, start, entry.encoded_nbytes), entry
        self._decoder = _make_decoder(entry.method, self._encoded)
        self._crc = self._nbytes = 0

    def read(self, size: int = -1) -> bytes:
        """Return some of the content, at most `size` bytes; nothing at its end."""
        size = CHUNK_NBYTES if size < 0 else size
        data = self._encoded.read(size) if self._decoder is None else self._decode(self._decoder, size)
        self._crc = zlib.crc32(data, self._crc)
        self._nbytes += len(data)
        if not data and (self._crc, self._nbytes) != (self._entry.crc, self._entry.nbytes):
            raise SampleError("corrupt_member", "the member is damaged or cut off: its size or checksum is wrong")
        return data

    def _decode(self, decoder: Decoder, size: int) -> bytes:
        data = b""
        while not data and not decoder.eof:
            encoded = self._encoded.read(CHUNK_NBYTES) if decoder.needs_input else b""
            if decoder.needs_input and not encoded:
                break
            data = decoder.decompress(encoded, size)
        return data


def _make_decoder(method: int, encoded: _Span) -> Decoder | None:
    if method == DEFLATED:
        return Inflater(-zlib.MAX_WBITS)
    if method == BZIP2:
        return bz2.BZ2Decompressor()
    if method == LZMA:
        properties, dictionary_nbytes = struct.unpack("<4xBL", encoded.read(9))
        lc, lp, pb = properties % 9, properties // 9 % 5, properties // 45
        lzma1 = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary_nbytes}
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma1])
    return None


def find_directory(stream: Stream) -> Directory | None:
    """Find the directory by the record at the archive's end.

    None without one, for one volume of several, and where the offsets in it count from another place than the file's
    beginning: then it is that of an archive behind this one, or of the last member of one that is cut off.
    """
    size = stream.seek(0, io.SEEK_END)
    tail_start = max(0, size - MAX_COMMENT_NBYTES - _END_RECORD.size)
    stream.seek(tail_start)
    tail = stream.read(size - tail_start)
    offset = tail.rfind(END)
    if offset < 0 or len(tail) - offset < _END_RECORD.size:
        return None
    disk, count, nbytes, start = _END_RECORD.unpack_from(tail, offset)
    end = tail_start + offset
    if end >= _ZIP64_NBYTES:
        stream.seek(end - _ZIP64_NBYTES)
        record = stream.read(_ZIP64_NBYTES)
        if record.startswith(_END64) and record.startswith(_LOCATOR64, _ZIP64_NBYTES - 20):
            disk, end = 0, end - _ZIP64_NBYTES
            count, nbytes, start = _END64_RECORD.unpack_from(record)
    return Directory(start, count) if not disk and start + nbytes == end else None


def _is_whole(stream: Stream, start: int, count: int) -> bool:
    """Return whether a directory reaches its end and has that many entries, modulo the 16 bits that old tools write."""
    try:
        return (sum(1 for _ in central_headers(stream, start)) - count) % 2**16 == 0
    except SampleError:
        return False


def central_headers(stream: Stream, start: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each header of a directory: its fixed part; and its name, extra fields and comment."""
    reader = io.BufferedReader(_Span(stream, start), CHUNK_NBYTES)
    while len(header := reader.read(_CENTRAL_HEADER.size)) == _CENTRAL_HEADER.size and header.startswith(CENTRAL):
        *_, name_nbytes, extra_nbytes, comment_nbytes, _ = _CENTRAL_HEADER.unpack(header)
        yield header, reader.read(name_nbytes + extra_nbytes + comment_nbytes)
    if not header.startswith((END, _END64, _SIGNED)):
        raise SampleError("corrupt_archive", "the directory at the archive's end is damaged")


def central_entry(header: bytes, variable: bytes) -> ZipEntry:
    """Return the entry of a header of a directory, from both of its parts."""
    flags, method, crc, encoded_nbytes, nbytes, name_nbytes, extra_nbytes, _, offset = _CENTRAL_HEADER.unpack(header)
    extra = variable[name_nbytes : name_nbytes + extra_nbytes]
    nbytes, encoded_nbytes, offset = _widen(extra, (nbytes, encoded_nbytes, offset))
    return ZipEntry(
        name=_decode_name(variable[:name_nbytes], flags),
        flags=flags,
        method=method,
        crc=crc,
        nbytes=nbytes,
        encoded_nbytes=encoded_nbytes,
        offset=offset,
    )


def _scan(stream: Stream) -> Iterator[ZipEntry]:
    """Yield the entries by their own headers, from the archive's beginning to where it is cut off, or of several.

    Raises:
        SampleError: `corrupt_archive`, after the last entry, unless a whole directory follows the entries.
    """
    size = stream.seek(0, io.SEEK_END)
    position: int | None = 0
    count = 0
    while position is not None:
        stream.seek(position)
        header = stream.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            break
        if header.startswith(CENTRAL):
            if not _is_whole(stream, position, count):
                break
            count, position = 0, next(_search(stream, position, _LOCAL_HEADERS), None)
            if position is None:
                return
        elif header.startswith(LOCAL):
            entry, position = _local_entry(stream, position, header, size)
            yield entry
            count += 1
        else:
            position = next(_search(stream, position, _HEADERS), None)
    text = "the directory at the archive's end is missing or damaged; the members above were found without it"
    raise SampleError("corrupt_archive", text)


def _local_entry(stream: Stream, offset: int, header: bytes, size: int) -> tuple[ZipEntry, int]:
    """Return the entry of a member's own header, and where the member ends; one that is cut off has no content."""
    flags, method, crc, encoded_nbytes, nbytes, name_nbytes, extra_nbytes = _LOCAL_HEADER.unpack(header)
    name, extra = stream.read(name_nbytes), stream.read(extra_nbytes)
    nbytes, encoded_nbytes = _widen(extra, (nbytes, encoded_nbytes))
    start = offset + len(header) + name_nbytes + extra_nbytes
    sizes: _Sizes | None = _Sizes(crc, encoded_nbytes, nbytes)
    if flags & SIZES_BEHIND and not encoded_nbytes:
        sizes = _find_sizes(stream, start)
    sizes = sizes or _Sizes(crc, size, UNKNOWN)
    entry = ZipEntry(
        name=_decode_name(name, flags),
        flags=flags,
        method=method,
        crc=sizes.crc,
        nbytes=sizes.nbytes,
        encoded_nbytes=sizes.encoded_nbytes,
        offset=offset,
    )
    return entry, start + sizes.encoded_nbytes


def _find_sizes(stream: Stream, start: int) -> _Sizes | None:
    """Find what a writer that could not seek puts behind a member: where it says how far away the member begins."""
    size = stream.seek(0, io.SEEK_END)
    for found in chain(_search(stream, start, _HEADERS_OR_DESCRIPTORS), [size]):
        stream.seek(found)
        if stream.read(4) == DESCRIPTOR:  # most writers mark these values; others put them right before a header
            behind = stream.read(_SIZES64.size)
            candidates = [(record, behind[: record.size], found) for record in (_SIZES, _SIZES64)]
        else:
            stream.seek(max(start, found - _SIZES64.size))
            before = stream.read(found - max(start, found - _SIZES64.size))
            candidates = [(record, before[-record.size :], found - record.size) for record in (_SIZES, _SIZES64)]
        for record, values, end in candidates:
            if len(values) == record.size and (sizes := _Sizes(*record.unpack(values))).encoded_nbytes == end - start:
                return sizes
    return None


def _search(stream: Stream, position: int, signatures: re.Pattern[bytes]) -> Iterator[int]:
    """Yield the positions of signatures; others may read the stream in between."""
    reader, rest = _Span(stream, position), b""
    while data := reader.read(CHUNK_NBYTES):
        yield from (position + match.start() for match in signatures.finditer(rest + data))
        joined, rest = rest + data, (rest + data)[-3:]
        position += len(joined) - len(rest)


def _widen(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Replace values that do not fit in 32 bits by those of the 64-bit extra field."""
    while len(extra) >= 4 and UNKNOWN in values:
        kind, nbytes = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = iter(struct.unpack(f"<{nbytes // 8}Q", extra[4 : 4 + nbytes // 8 * 8].ljust(nbytes // 8 * 8, b"\0")))
            return tuple(next(wide, value) if value == UNKNOWN else value for value in values)
        extra = extra[4 + nbytes :]
    return values


def _decode_name(name: bytes, flags: int) -> str:
    """Return a name as text; older tools of Windows write backslashes between folders."""
    text = name.decode("utf-8", "surrogateescape") if flags & UTF8 else name.decode("cp437")
    return text.partition("\0")[0].replace("\\", "/")
