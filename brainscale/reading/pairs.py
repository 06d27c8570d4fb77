"""NIfTI pairs: a header (.hdr) and the image (.img) beside it → one volume, under the header's name.

In a folder, each file comes with the other one as its partner. In an archive, whose members come in any order and one
at a time, headers wait for their images, and an image for the next member only.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.archives import Member, read_members
from brainscale.reading.suffixes import suffix_of

MAX_HEADERS = 4096  # that wait for their images at a time

# Size of the header, where its magic and the offset of the voxels stand, the offset's type, and both magics.
_KINDS = ((348, 344, 108, "f", b"ni1\0", b"n+1\0"), (540, 4, 168, "q", b"ni2\0", b"n+2\0"))


def is_header(data: bytes) -> bool:
    """Tell whether these bytes are a NIfTI header whose image is in another file."""
    return any(data[magic : magic + 4] == pair for _, magic, _, _, pair, _ in _KINDS)


def join_pair(header: bytes, image: bytes) -> bytes:
    """Return the one file (.nii) that a header and an image are two of."""
    nbytes, magic, place, kind, _, single = next(k for k in _KINDS if header[k[1] : k[1] + 4] == k[4])
    joined = bytearray(header[:nbytes].ljust(nbytes, b"\0"))
    order = "<" if int.from_bytes(joined[:4], "little") == nbytes else ">"
    (offset,) = struct.unpack_from(f"{order}{kind}", joined, place)
    behind = nbytes + 4  # where voxels may begin, once the bytes that tell of extensions are there
    struct.pack_into(f"{order}{kind}", joined, place, behind + (offset if 0 < offset < len(image) else 0))
    joined[magic : magic + 4] = single
    return bytes(joined) + bytes(4) + image


def read_with_partners(
    stream: io.RawIOBase, partners: Sequence[io.RawIOBase], suffix: str, limits: LimitsConfig
) -> Iterator[Member]:
    """Read every file in a stream, pairs as one.

    Args:
        stream: of bytes.
        partners: files beside it, of which one may be its other half.
        suffix: .hdr or .img where the stream's file is named so; only such a file has partners.
        limits: of sizes, ratio and depth.
    """
    nbytes = _size(stream)
    if suffix == ".img" and is_header(_read_first(partners, limits) or b""):
        yield image_member(nbytes=nbytes)
        return
    for member in join_members(read_members(stream, nbytes, limits)):
        is_lone_header = not member.path and suffix == ".hdr" and is_header(member.data or b"")
        image = _read_first(partners, limits) if is_lone_header else None
        yield member if image is None else _join(member, image)


def _size(stream: io.RawIOBase) -> int:
    """Return the size of a stream, and go to its beginning."""
    nbytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return nbytes


def _read_first(streams: Sequence[io.RawIOBase], limits: LimitsConfig) -> bytes | None:
    """Return the content of the first of the streams that can be read."""
    contents = (next(read_members(stream, _size(stream), limits)).data for stream in streams)
    return next((content for content in contents if content is not None), None)


def _join(header: Member, image: bytes) -> Member:
    try:
        return replace(header, data=join_pair(header.data or b"", image))
    except MemoryError:
        return replace(header, data=None, error=SampleError("out_of_memory", "the pair's files need too much memory"))


def image_member(path: tuple[str, ...] = (), nbytes: int | None = None) -> Member:
    """Return what stands in the place of an image that is read with its header."""
    return Member(path=path, nbytes=nbytes, error=SampleError("paired", "the image of a NIfTI pair, read as its .hdr"))


def join_members(members: Iterator[Member]) -> Iterator[Member]:
    """Join the pairs among the members of an archive."""
    headers: dict[tuple[str, ...], Member] = {}
    image: Member | None = None  # whose header has not come yet
    for member in members:
        key, suffix = _key(member.path), suffix_of(member.path[-1]) if member.path else ""
        if image and not (suffix == ".hdr" and key == _key(image.path)):
            yield image
            image = None
        if suffix == ".hdr" and is_header(member.data or b""):
            # Two copies of a name, or very many headers: the first one waits no longer.
            if key in headers or len(headers) == MAX_HEADERS:
                yield headers.pop(key if key in headers else next(iter(headers)))
            headers[key] = replace(member, data=(member.data or b"")[:544])
        elif suffix == ".img" and member.data is not None:
            image = member
        else:
            yield member
        if image and (header := headers.pop(_key(image.path), None)):
            yield _join(header, image.data or b"")
            yield image_member(image.path, len(image.data or b""))
            image = None
    if image:
        yield image
    yield from headers.values()


def _key(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the paths of both files of a pair have in common."""
    if not path or not (suffix := suffix_of(path[-1])):
        return path
    return (*path[:-1], path[-1][: path[-1].lower().rindex(suffix)])
