"""The family of formats of a file, by its first bytes. No library that decodes one is loaded for this."""

from struct import unpack_from
from typing import Literal

Family = Literal["dicom", "raster", "nifti", "mgh"]
"""Name of the module of this package that decodes a family of formats."""
RASTER_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000")
FORMATS = (*RASTER_FORMATS, "DICOM", "NIfTI", "MGH")
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
JPEG_2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_RASTER = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a", *TIFF, *JPEG_2000)
_VRS = b"""
    AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV
""".split()
MGH_HEADER_NBYTES = 284
_MGH_TYPES = range(11)  # those that no reader knows among them


def find_family(head: bytes) -> Family | None:
    """Return the family of a file that begins with these bytes; None where no format is known."""
    if is_dicom(head):  # first, for its preamble may pass for a TIFF
        return "dicom"
    if is_raster(head):
        return "raster"
    if is_nifti(head):
        return "nifti"
    return "mgh" if is_mgh(head) else None


def is_dicom(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (160) is DICOM, with a preamble or without."""
    return head[128:132] == b"DICM" or find_byte_order(head) is not None


def is_raster(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes is an image that Pillow reads."""
    return head.startswith(_RASTER) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def is_nifti(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (352) is NIfTI with its image in the same file."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def is_nifti_header(head: bytes) -> bool:
    """Tell whether this is a NIfTI header whose image is in another file (.hdr and .img)."""
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def is_mgh(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (512) is MGH: version 1, sizes and a type that make sense."""
    if len(head) < MGH_HEADER_NBYTES:
        return False
    version, *shape, kind = unpack_from(">6i", head)
    return version == 1 and min(shape) > 0 and max(shape) < 2**20 and kind in _MGH_TYPES


def find_byte_order(head: bytes) -> str | None:
    """Return < or > for a DICOM data set that begins with these bytes; None if none does."""
    if len(head) < 16:
        return None
    for order in "<>":
        group, element, nbytes = unpack_from(f"{order}HHI", head)
        if group in (2, 8) and element < 0x100:
            is_implicit = order == "<" and _has_second_element(head, group, element, nbytes)
            return order if head[4:6] in _VRS or is_implicit else None
    return None


def _has_second_element(head: bytes, group: int, element: int, nbytes: int) -> bool:
    """Tell whether another element, with a later tag, comes after the first one of an implicit VR data set."""
    if nbytes % 2 or 8 + nbytes + 4 > len(head):
        return False
    second = unpack_from("<HH", head, 8 + nbytes)
    return (group, element) < second < (0x11, 0)
