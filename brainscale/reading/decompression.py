"""Compressed streams → their content: gzip, bzip2, xz and zstd, one stream after another.

Tools that pack in parallel or append write several streams in one file. What follows the last one and is no stream,
such as a checksum or padding, is ignored: `ignored` says so.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

CHUNK_NBYTES = 2**16  # of encoded bytes read at a time
XZ_MEMORY_NBYTES = 256 * 2**20  # an xz header may ask for 4 GiB
GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # last bytes of the magic of a zstd frame without content

Stream = Any
"""Something to read bytes from: Python's streams and Arrow's have no type in common."""


class Decoder(Protocol):
    """What bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...  # noqa: D102
    @property
    def needs_input(self) -> bool: ...  # noqa: D102
    @property
    def unused_data(self) -> bytes: ...  # noqa: D102
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...  # noqa: D102


class Inflater:
    """zlib's decompressor with the interface of bz2's: it keeps what it was given and has not used."""

    def __init__(self, window_bits: int) -> None:
        self._inflater = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        """Return whether the end of the stream was reached."""
        return self._inflater.eof

    @property
    def needs_input(self) -> bool:
        """Return whether all input was used."""
        return not self._inflater.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """Return the input after the end of the stream."""
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return at most `max_length` bytes of the content, or all that there is to the input so far."""
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, max(0, max_length))


class Decompressed(io.RawIOBase):
    """The content of a compressed file.

    Args:
        inner: the compressed file, at its beginning.
        magic: first bytes of each of its streams.
        make_decoder: makes a decoder for one stream.

    Attributes:
        ignored: whether bytes after the last stream were ignored.
    """

    def __init__(self, inner: Stream, magic: bytes, make_decoder: Callable[[], Decoder]) -> None:
        self._inner, self._magic, self._make_decoder = inner, magic, make_decoder
        self._decoder, self._pending = make_decoder(), b""
        self.ignored = False

    def read(self, size: int = -1) -> bytes:
        """Return some of the content, at most `size` bytes; nothing at its end."""
        while not self._decoder.eof or self._begin_next_stream():
            encoded = b""
            if self._decoder.needs_input:
                encoded, self._pending = self._pending or self._inner.read(CHUNK_NBYTES), b""
                if not encoded:
                    raise EOFError("cut off")
            if data := self._decoder.decompress(encoded, size):
                return data
        return b""

    def _begin_next_stream(self) -> bool:
        """Prepare the next stream, if there is one, behind zeros or not."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic) and not self.ignored:
            more = self._inner.read(CHUNK_NBYTES)
            if not more:
                break
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(self._magic):
            self.ignored = self.ignored or bool(rest)
            return False
        self._decoder, self._pending = self._make_decoder(), rest
        return True


class ZstdFrames(io.RawIOBase):
    """The frames of a zstd file, still compressed, without what follows them: Arrow's decoder would fail there.

    Attributes:
        ignored: whether bytes after the last frame were ignored.
    """

    def __init__(self, inner: Stream) -> None:
        self._inner, self._pieces, self._rest = inner, self._frames(), b""
        self.ignored = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes of the frames into a buffer."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _frames(self) -> Iterator[bytes]:
        """Yield the frames in pieces (RFC 8878, section 3.1); a frame that is cut off ends in the middle."""
        while magic := self._inner.read(4):
            if magic[1:] == _SKIPPABLE and magic[0] & 0xF0 == 0x50:
                length = self._inner.read(4)
                yield magic + length
                yield from self._copied(int.from_bytes(length, "little"))
            elif magic == ZSTD:
                yield magic
                yield from self._frame()
            else:
                self.ignored = bool((magic + self._inner.read(CHUNK_NBYTES)).strip(b"\0"))
                return

    def _frame(self) -> Iterator[bytes]:
        (descriptor,) = self._inner.read(1) or b"\0"
        single_segment, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
        size_nbytes = (single_segment, 2, 4, 8)[descriptor >> 6]
        yield bytes([descriptor]) + self._inner.read(1 - single_segment + (0, 1, 2, 4)[descriptor & 3] + size_nbytes)
        last = False
        while not last:
            header = self._inner.read(3)
            yield header
            number = int.from_bytes(header, "little")
            last = bool(number & 1) or len(header) < 3
            yield from self._copied(1 if number >> 1 & 3 == 1 else number >> 3)  # 1: one byte, repeated
        yield self._inner.read(4 * has_checksum)

    def _copied(self, nbytes: int) -> Iterator[bytes]:
        while nbytes and (data := self._inner.read(min(nbytes, CHUNK_NBYTES))):
            yield data
            nbytes -= len(data)


def open_gzip(inner: Stream) -> Decompressed:
    """Return the content of a gzip file."""
    return Decompressed(inner, GZIP, lambda: Inflater(zlib.MAX_WBITS | 16))


def open_bzip2(inner: Stream) -> Decompressed:
    """Return the content of a bzip2 file."""
    return Decompressed(inner, BZIP2, bz2.BZ2Decompressor)


def open_xz(inner: Stream) -> Decompressed:
    """Return the content of an xz file."""
    return Decompressed(inner, XZ, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_NBYTES))


class _Zstd:
    """The content of a zstd file."""

    def __init__(self, inner: Stream) -> None:
        import pyarrow as pa  # here: few files need it, and it takes as long to load as all formats together

        self._frames = ZstdFrames(inner)
        self._content = pa.CompressedInputStream(pa.PythonFile(self._frames, mode="r"), "zstd")

    @property
    def ignored(self) -> bool:
        return self._frames.ignored

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._content.read(size)
        return data


def open_zstd(inner: Stream) -> _Zstd:
    """Return the content of a zstd file."""
    return _Zstd(inner)
