"""What a compressed image says of itself: its kind, precision and size, from the first bytes that declare them."""

from struct import unpack_from
from typing import NamedTuple


class Codestream(NamedTuple):
    """What the header of a compressed image says."""

    kind: str
    precision: int | None = None
    shape: tuple[int, int, int] | None = None  # height, width and components


def codestream_header(codestream: bytes) -> Codestream | None:
    """Return what a compressed image says of itself: SIZ of JPEG 2000, SOF of JPEG and JPEG-LS, RLE's segments."""
    start = codestream.find(b"\xff\x4f\xff\x51")
    if start == 0 or codestream[4:8] == b"jP  ":
        if start < 0 or len(codestream) < start + 43:
            return None
        x, y, left, top = unpack_from(">4I", codestream, start + 8)
        components, precision = unpack_from(">HB", codestream, start + 40)
        return Codestream("JPEG 2000", (precision & 0x7F) + 1, (y - top, x - left, components))
    if codestream[:2] != b"\xff\xd8":
        segments = unpack_from("<2I", codestream) if len(codestream) >= 64 else (0, 0)
        return Codestream("RLE") if 1 <= segments[0] <= 15 and segments[1] == 64 else None
    offset = 2
    while offset + 10 <= len(codestream):
        marker, nbytes = unpack_from(">HH", codestream, offset)
        if marker == 0xFFFF:  # fill before a marker
            offset += 1
        elif marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            precision, height, width, components = unpack_from(">BHHB", codestream, offset + 4)
            lossless = {0xFFF7: "JPEG-LS", 0xFFC3: "JPEG lossless"}
            return Codestream(lossless.get(marker, "JPEG"), precision, (height, width, components))
        else:
            offset += 2 + nbytes
    return None
