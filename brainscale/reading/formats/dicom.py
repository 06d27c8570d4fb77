"""DICOM through pydicom: bytes → grey frames, once what the object declares is within the limits.

Overlays are left out. Of the text in a data set only the identifiers of patient and series leave this module, and
no text at all leaves it in an error: pydicom's messages quote values, so they are never passed on.
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
from brainscale.reading.formats.dicom_grey import grey_frames, number_of, stored_bits, text_of
from brainscale.reading.formats.frame import Frame, GreyRange

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_RGB = ("HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422")  # retired colour spaces, which pydicom does not convert
_VRS = {str(name).encode() for name in STANDARD_VR}
_PHOTOMETRIC = {str(name) for name in PhotometricInterpretation}

logging.getLogger("pydicom").propagate = False  # its log quotes values too


def recognises(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (160) is DICOM, with a preamble or without."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    for order in "<>":
        group, element, nbytes = unpack_from(f"{order}HHI", head)
        if group in (2, 8) and element < 0x100:
            return head[4:6] in _VRS or (order == "<" and _has_second_element(head, group, element, nbytes))
    return False


def _has_second_element(head: bytes, group: int, element: int, nbytes: int) -> bool:
    """Tell whether another element, with a later tag, comes after the first one of an implicit VR data set."""
    if nbytes % 2 or 8 + nbytes + 4 > len(head):
        return False
    second = unpack_from("<HH", head, 8 + nbytes)
    return (group, element) < second < (0x11, 0)


def decode(data: bytes, limits: LimitsConfig, percentiles: tuple[float, float]) -> Iterator[Frame]:
    """Decode every frame of an object.

    Args:
        data: the file's bytes.
        limits: larger objects are refused before decoding.
        percentiles: become 0 and 255 where the object names no window.

    Raises:
        SampleError: `no_pixels`, `too_many_pixels`, `too_many_frames`, `empty_image`, `compression_bomb`,
            `unsupported_transfer_syntax`, `unsupported_format`, `truncated` or `corrupt`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            ds = _read(data, limits)
            frames = _check(ds, limits)
            planes = _planes(ds, frames, _transfer_syntax(ds))
            for number, (pixels, grey_range) in enumerate(grey_frames(ds, planes, frames, percentiles)):
                yield _frame(ds, pixels, grey_range, number if frames > 1 else None)
    except (SampleError, MemoryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 (damage can surface anywhere; a panic in Rust is no Exception)
        raise SampleError("corrupt", f"the DICOM pixels cannot be decoded ({type(error).__name__})") from None


def _read(data: bytes, limits: LimitsConfig) -> FileDataset:
    stream = BytesIO(data)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        _check_inflated(data[stream.tell() :], limits)
    ds = dcmread(BytesIO(data), force=True)
    if not len(ds) and not len(ds.file_meta):
        raise SampleError("corrupt", "no DICOM element can be read")
    return ds


def _check_inflated(deflated: bytes, limits: LimitsConfig) -> None:
    inflater, nbytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while deflated and not inflater.eof:
        nbytes += len(inflater.decompress(deflated, 2**20))
        deflated = inflater.unconsumed_tail
        if nbytes > limits.nbytes:
            raise SampleError("compression_bomb", f"the data set inflates beyond limits.file_mib = {limits.file_mib}")


def _check(ds: FileDataset, limits: LimitsConfig) -> int:
    """Check that the data set has pixels, within the limits by what it declares, and return the number of frames."""
    if not any(keyword in ds for keyword in PIXELS):
        raise _missing_pixels(ds)
    height, width, frames = number_of(ds, "Rows"), number_of(ds, "Columns"), _frame_count(ds)
    if height is None or width is None or frames is None:
        raise SampleError("corrupt", "Rows, Columns or NumberOfFrames cannot be read")
    rows, columns = int(height), int(width)
    if rows < 1 or columns < 1:
        raise SampleError("empty_image", f"an image of {columns} × {rows} pixels")
    if rows * columns > limits.pixels:
        raise SampleError("too_many_pixels", f"{columns} × {rows} pixels exceed limits.pixels = {limits.pixels}")
    if frames > limits.frames:
        raise SampleError("too_many_frames", f"{frames} frames exceed limits.frames = {limits.frames}")
    if rows * columns * frames > limits.voxels:
        size = f"{frames} frames of {columns} × {rows} pixels"
        raise SampleError("too_many_pixels", f"{size} exceed limits.voxels = {limits.voxels}")
    ds.Rows, ds.Columns, ds.NumberOfFrames = rows, columns, frames
    return frames


def _missing_pixels(ds: FileDataset) -> SampleError:
    """Return the error of an object that is no image, an image cut short, or no DICOM at all."""
    uid = UID(str(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or ""))
    if not uid or not uid.is_valid:
        return SampleError("corrupt", "neither a SOP class nor pixels can be read")
    kind = uid.name if uid.type == "SOP Class" else "private SOP class"  # a name of the standard, not of the file
    if "Image Storage" in kind or "PhotometricInterpretation" in ds:
        return SampleError("truncated", f"an image without its pixel data ({kind})")
    return SampleError("no_pixels", f"a DICOM object that holds no image ({kind})")


def _frame_count(ds: Dataset) -> int | None:
    """Return the number of frames, at least 1; None if the object states one that makes no sense."""
    element = ds.get_item("NumberOfFrames")
    if element is None or not element.value:
        return 1
    number = number_of(ds, "NumberOfFrames")
    return None if number is None or number < 0 else max(1, int(number))


def _transfer_syntax(ds: FileDataset) -> UID:
    """Return the transfer syntax that the file names, or the one by which the data set was read."""
    if ds.file_meta.get("TransferSyntaxUID"):
        return UID(str(ds.file_meta.TransferSyntaxUID))
    if "PixelData" in ds and ds["PixelData"].is_undefined_length:
        raise SampleError("unsupported_transfer_syntax", "compressed pixels, but the file names no transfer syntax")
    implicit, little_endian = ds.original_encoding
    explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return ds.file_meta.TransferSyntaxUID


def _planes(ds: Dataset, frames: int, syntax: UID) -> Iterator[np.ndarray]:
    """Yield the stored values of each frame: [H, W], or [H, W, 3] in RGB."""
    if ds.PhotometricInterpretation in NO_RGB:
        raise SampleError("unsupported_format", f"no conversion of {ds.PhotometricInterpretation} to RGB")
    decoder = _decoder(syntax, ds)
    if not syntax.is_encapsulated:
        stored = next(ds[keyword].value or b"" for keyword in PIXELS if keyword in ds)
        if len(stored) < get_expected_length(ds):
            text = f"the pixel data are too short for {frames} frame(s) of {ds.Columns} × {ds.Rows} pixels"
            raise SampleError("truncated", text)
        yield from (plane for plane, _ in decoder.iter_array(ds, allow_excess_frames=False))
        return
    # Compressed colour is by pixel, or as the decoder says, whatever the data set claims.
    options = as_pixel_options(ds, number_of_frames=1, pixel_keyword="PixelData", planar_configuration=0)
    codestreams = generate_frames(
        ds.PixelData, number_of_frames=frames, extended_offsets=options.pop("extended_offsets", None)
    )
    count = 0
    for codestream in islice(codestreams, frames):
        # Decoders allocate what the codestream declares.
        if syntax != RLELossless and _codestream_shape(codestream) != (ds.Rows, ds.Columns, ds.SamplesPerPixel):
            raise SampleError("corrupt", "the size in the compressed image differs from the size in the DICOM header")
        # One by one, since pydicom's iterator fails where the signs of codestream and data set differ.
        yield decoder.as_array(encapsulate([codestream], has_bot=False), **options)[0]
        count += 1
    if count < frames:
        raise SampleError("truncated", f"only {count} of {frames} frames are in the file")


def _decoder(syntax: UID, ds: Dataset) -> Decoder:
    # GDCM decodes 12-bit JPEG exactly, but pydicom asks it to only under the name of the lossless syntax.
    is_12_bit = syntax == JPEGExtended12Bit and ds.BitsStored > 8
    with suppress(NotImplementedError):  # raised for a syntax that pydicom knows no decoder of
        decoder = get_decoder(JPEGLossless if is_12_bit else syntax)
        if decoder.is_available:
            return decoder
    name = syntax.name if syntax.type == "Transfer Syntax" else "an unknown transfer syntax"
    raise SampleError("unsupported_transfer_syntax", f"no decoder for {name}")


def _codestream_shape(codestream: bytes) -> tuple[int, int, int] | None:
    """Return height, width and components by a codestream's header: SIZ of JPEG 2000, SOF of JPEG and JPEG-LS."""
    start = codestream.find(b"\xff\x4f\xff\x51")
    if start == 0 or codestream[4:8] == b"jP  ":
        x, y, left, top = unpack_from(">4I", codestream, start + 8)
        return y - top, x - left, unpack_from(">H", codestream, start + 40)[0]
    offset = 2
    while offset + 10 <= len(codestream):
        marker, nbytes = unpack_from(">HH", codestream, offset)
        if marker == 0xFFFF:  # fill before a marker
            offset += 1
        elif marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            height, width, components = unpack_from(">HHB", codestream, offset + 5)
            return height, width, components
        else:
            offset += 2 + nbytes
    return None


def _frame(ds: Dataset, pixels: np.ndarray, grey_range: GreyRange | None, number: int | None) -> Frame:
    photometric = text_of(ds, "PhotometricInterpretation")
    patient, issuer = text_of(ds, "PatientID"), text_of(ds, "IssuerOfPatientID")
    return Frame(
        pixels=pixels,
        format="DICOM",
        mode=f"{photometric if photometric in _PHOTOMETRIC else 'unknown'} {stored_bits(ds)}",
        width=ds.Columns,
        height=ds.Rows,
        number=number,
        grey_range=grey_range,
        inverted=photometric == "MONOCHROME1",
        patient=patient or None,
        issuer=issuer or None,
        scan=text_of(ds, "SeriesInstanceUID") or None,
    )
