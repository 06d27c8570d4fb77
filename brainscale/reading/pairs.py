"""NIfTI pairs: a header (.hdr) and the image (.img) beside it → one volume, under the header's name.

In a folder, the header's file opens the image's. In an archive, whose members come in any order and one at a time,
headers wait for their images, and an image for the next member only.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.archives import Member, read_members
from brainscale.reading.sources import UNREACHABLE, open_file
from brainscale.storage.remote import is_address

SUFFIXES = {".hdr": ".img", ".img": ".hdr"}
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


def image_is_paired(uri: str, limits: LimitsConfig) -> bool:
    """Tell whether a file is the image of a pair: it is named so, and its header is beside it."""
    return _suffix(uri) == ".img" and is_header(_read_partner(uri, limits) or b"")


def with_image(member: Member, uri: str, limits: LimitsConfig) -> Member:
    """Return a file's content joined with the image beside it, if it is the header of a pair."""
    if member.data is None or _suffix(uri) != ".hdr" or not is_header(member.data):
        return member
    image = _read_partner(uri, limits)
    return member if image is None else replace(member, data=join_pair(member.data, image))


def image_member(path: tuple[str, ...] = (), nbytes: int | None = None) -> Member:
    """Return what stands in the place of an image that is read with its header."""
    return Member(path=path, nbytes=nbytes, error=SampleError("paired", "the image of a NIfTI pair, read as its .hdr"))


def join_members(members: Iterator[Member]) -> Iterator[Member]:
    """Join the pairs among the members of an archive."""
    headers: dict[tuple[str, ...], Member] = {}
    image: Member | None = None  # whose header has not come yet
    for member in members:
        key, suffix = _key(member.path), _suffix(member.path[-1]) if member.path else ""
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
            yield replace(header, data=join_pair(header.data or b"", image.data or b""))
            yield image_member(image.path, len(image.data or b""))
            image = None
    if image:
        yield image
    yield from headers.values()


def _suffix(name: str) -> str:
    """Return .hdr or .img for a name or address that ends so, also with .gz behind it, in capitals or not."""
    stem = (name.partition("?")[0] if is_address(name) else name).lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if stem.endswith(suffix)), "")


def _key(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the paths of both files of a pair have in common."""
    if not path or not (suffix := _suffix(path[-1])):
        return path
    return (*path[:-1], path[-1][: path[-1].lower().rindex(suffix)])


def _read_partner(uri: str, limits: LimitsConfig) -> bytes | None:
    """Return the content of the other file of a pair; None if it is not there or cannot be read."""
    path, mark, options = uri.partition("?") if is_address(uri) else (uri, "", "")
    suffix = _suffix(path)
    start = path.lower().rindex(suffix)
    other, compressed = SUFFIXES[suffix], path[start + 4 :]
    other = other.upper() if path[start + 1 : start + 4].isupper() else other
    for ending in dict.fromkeys((compressed, "", ".gz")):
        try:
            with open_file(f"{path[:start]}{other}{ending}{mark}{options}") as (stream, nbytes):
                stream.seek(0)
                return next(read_members(stream, nbytes, limits)).data
        except SampleError as error:
            if error.code == UNREACHABLE:
                raise
    return None
