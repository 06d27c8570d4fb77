"""DICOM through pydicom: bytes → grey frames, after bounds on what they ask for.

Overlays are left out. Of the text in a data set only the identifiers
of patient and series leave this module, and nothing at all through an error, pydicom's messages included: they
quote values.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice
from struct import unpack_from

import numpy as np
from pydicom import Dataset, FileDataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options, get_expected_length
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLossless,
    RLELossless,
)
from pydicom.valuerep import STANDARD_VR

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.dicom_grey import Limits, grey_frames, number_of, stored_bits, text_of
from brainscale.reading.formats.frame import Frame

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_RGB = ("HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422")  # retired, three samples, and pydicom leaves them so
_VR = {str(name).encode() for name in STANDARD_VR}
_PHOTOMETRIC = {str(name) for name in PhotometricInterpretation}

logging.getLogger("pydicom").propagate = False  # what it logs quotes values too


def recognises(head: bytes) -> bool:
    """Whether a file that begins so (160 bytes) is DICOM, with a preamble or without."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    for order in "<>":
        group, element, nbytes = unpack_from(f"{order}HHI", head)
        if group in (2, 8) and element < 0x100:
            return head[4:6] in _VR or (order == "<" and _is_followed(head, group, element, nbytes))
    return False


def _is_followed(head: bytes, group: int, element: int, nbytes: int) -> bool:
    """Whether another element, with a later tag, comes after the first one of an implicit VR data set."""
    if nbytes % 2 or 8 + nbytes + 4 > len(head):
        return False
    following = unpack_from("<HH", head, 8 + nbytes)
    return (group, element) < following < (0x11, 0)


def decode(data: bytes, limits: LimitsConfig, window: Limits) -> Iterator[Frame]:
    """Decode every frame of an object.

    Args:
        data: the file's bytes.
        limits: larger objects are refused before decoding.
        window: percentiles that become 0 and 255 where the object names no window.

    Raises:
        SampleError: `no_pixels`, `too_many_pixels`, `too_many_frames`, `empty_image`, `compression_bomb`,
            `unsupported_transfer_syntax`, `unsupported_format`, `truncated` or `corrupt`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            ds = _read(data, limits)
            frames = _check(ds, limits)
            planes = _planes(ds, frames, _syntax(ds))
            for number, (pixels, bounds) in enumerate(grey_frames(ds, planes, frames, window)):
                yield _frame(ds, pixels, bounds, number if frames > 1 else None)
    except (SampleError, MemoryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 (damage can surface anywhere; a panic in Rust is no Exception)
        raise SampleError("corrupt", f"the DICOM pixels cannot be decoded ({type(error).__name__})") from None


def _read(data: bytes, limits: LimitsConfig) -> FileDataset:
    stream = BytesIO(data)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        _check_inflated(data[stream.tell() :], limits.nbytes)
    ds = dcmread(BytesIO(data), force=True)
    if not len(ds) and not len(ds.file_meta):
        raise SampleError("corrupt", "no DICOM element can be read")
    return ds


def _check_inflated(deflated: bytes, most: int) -> None:
    inflater, nbytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while deflated and not inflater.eof:
        nbytes += len(inflater.decompress(deflated, 2**20))
        deflated = inflater.unconsumed_tail
        if nbytes > most:
            raise SampleError("compression_bomb", f"the data set inflates to more than {most} bytes")


def _check(ds: FileDataset, limits: LimitsConfig) -> int:
    """Whether the pixels that the data set declares are there and few enough; how many frames they are."""
    if not any(keyword in ds for keyword in PIXELS):
        raise _without_pixels(ds)
    height, width, frames = number_of(ds, "Rows"), number_of(ds, "Columns"), _count(ds)
    if height is None or width is None or frames is None:
        raise SampleError("corrupt", "rows, columns or the number of frames cannot be read")
    rows, columns = int(height), int(width)
    if rows < 1 or columns < 1:
        raise SampleError("empty_image", f"{columns} × {rows} holds no pixel")
    if rows * columns > limits.pixels:
        raise SampleError("too_many_pixels", f"{columns} × {rows} is more than {limits.pixels} pixels")
    if frames > limits.frames:
        raise SampleError("too_many_frames", f"{frames} is more than {limits.frames} frames")
    if rows * columns * frames > limits.voxels:
        raise SampleError("too_many_pixels", f"{frames} frames hold more than {limits.voxels} pixels")
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
    return frames


def _without_pixels(ds: FileDataset) -> SampleError:
    """An object that is no image, or an image cut short, or no DICOM; named by the standard's list alone."""
    uid = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or ""))
    if not uid or not uid.is_valid:
        return SampleError("corrupt", "neither a SOP class nor pixels can be read")
    kind = uid.name if uid.type == "SOP Class" else "DICOM object of a private class"
    if "Image Storage" in kind or "PhotometricInterpretation" in ds:
        return SampleError("truncated", f"a {kind} without its pixel data")
    return SampleError("no_pixels", f"a {kind}: it holds no image")


def _count(ds: Dataset) -> int | None:
    """Frames, at least 1; None if their number is there and makes no sense."""
    element = ds.get_item("NumberOfFrames")
    if element is None or not element.value:
        return 1
    number = number_of(ds, "NumberOfFrames")
    return None if number is None or number < 0 else max(1, int(number))


def _syntax(ds: FileDataset) -> UID:
    """The transfer syntax as named, or as the data set was read."""
    if ds.file_meta.get("TransferSyntaxUID"):
        return UID(str(ds.file_meta.TransferSyntaxUID))
    if "PixelData" in ds and ds["PixelData"].is_undefined_length:
        raise SampleError("unsupported_transfer_syntax", "compressed pixels, and no transfer syntax is named")
    implicit, little = ds.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds.file_meta.TransferSyntaxUID


def _planes(ds: Dataset, frames: int, syntax: UID) -> Iterator[np.ndarray]:
    """Stored values of each frame: [H, W], or [H, W, 3] in RGB."""
    if ds.PhotometricInterpretation in NO_RGB:
        raise SampleError("unsupported_format", f"{ds.PhotometricInterpretation}: no conversion to RGB")
    decoder = _decoder(syntax, ds)
    if not syntax.is_encapsulated:
        stored = next(ds[keyword].value or b"" for keyword in PIXELS if keyword in ds)
        if len(stored) < get_expected_length(ds):
            raise SampleError("truncated", f"fewer than {frames} × {ds.Columns} × {ds.Rows} pixels are there")
        yield from (plane for plane, _ in decoder.iter_array(ds, allow_excess_frames=False))
        return
    # Compressed colour is by pixel, or as the decoder says, whatever the data set claims.
    options = as_pixel_options(ds, number_of_frames=1, pixel_keyword="PixelData", planar_configuration=0)
    codes = generate_frames(
        ds.PixelData, number_of_frames=frames, extended_offsets=options.pop("extended_offsets", None)
    )
    done = 0
    for code in islice(codes, frames):
        # Decoders allocate what the codestream says.
        if syntax != RLELossless and _declared(code) != (ds.Rows, ds.Columns, ds.SamplesPerPixel):
            raise SampleError("corrupt", "a codestream declares another size than the data set")
        # One by one, for pydicom's iterator fails where the signs of codestream and data set differ.
        yield decoder.as_array(encapsulate([code], has_bot=False), **options)[0]
        done += 1
    if done < frames:
        raise SampleError("truncated", f"{done} of {frames} frames are there")


def _decoder(syntax: UID, ds: Dataset) -> Decoder:
    # GDCM decodes 12-bit JPEG exactly, but pydicom asks it to only under the name of the lossless syntax.
    twelve = syntax == JPEGExtended12Bit and ds.BitsStored > 8
    with suppress(NotImplementedError):  # pydicom's word for a syntax that it knows no decoder of
        decoder = get_decoder(JPEGLossless if twelve else syntax)
        if decoder.is_available:
            return decoder
    name = syntax.name if syntax.type == "Transfer Syntax" else "an unknown transfer syntax"
    raise SampleError("unsupported_transfer_syntax", f"{name}: no decoder")


def _declared(code: bytes) -> tuple[int, int, int] | None:
    """Height, width and components by a codestream's own header: SIZ of JPEG 2000, SOF of JPEG and JPEG-LS."""
    start = code.find(b"\xff\x4f\xff\x51")
    if start == 0 or code[4:8] == b"jP  ":
        x, y, left, top = unpack_from(">4I", code, start + 8)
        return y - top, x - left, unpack_from(">H", code, start + 40)[0]
    place = 2
    while place + 10 <= len(code):
        marker, nbytes = unpack_from(">HH", code, place)
        if marker == 0xFFFF:  # fill before a marker
            place += 1
        elif marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            height, width, components = unpack_from(">HHB", code, place + 5)
            return height, width, components
        else:
            place += 2 + nbytes
    return None


def _frame(ds: Dataset, pixels: np.ndarray, bounds: Limits | None, number: int | None) -> Frame:
    photometric = text_of(ds, "PhotometricInterpretation")
    patient, issuer = text_of(ds, "PatientID"), text_of(ds, "IssuerOfPatientID")
    return Frame(
        pixels=pixels,
        format="DICOM",
        mode=f"{photometric if photometric in _PHOTOMETRIC else 'unknown'} {stored_bits(ds)}",
        width=ds.Columns,
        height=ds.Rows,
        number=number,
        limits=bounds,
        inverted=photometric == "MONOCHROME1",
        patient=(f"{patient}|{issuer}" if issuer else patient) if patient else None,
        scan=text_of(ds, "SeriesInstanceUID") or None,
    )
