"""DICOM through pydicom: bytes → grey frames after the modality and VOI transforms of PS3.3 C.11.

Rescaling, windows and lookup tables are those of each frame: its functional groups, else the shared ones, else the
data set itself. A window becomes the frame's limits. Without any, 8-bit data stand as they are and all else shares
one percentile window over the whole object. Overlays are left out. Of the text in a data set only the identifiers
of patient and series leave this module, and nothing at all through an error, pydicom's messages included: they
quote values.
"""

import logging
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice
from math import isfinite
from struct import unpack_from
from typing import TypeVar

import numpy as np
from PIL import Image
from pydicom import Dataset, FileDataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filereader import read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.processing import apply_color_lut
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

from brainscale.config import LimitsConfig
from brainscale.errors import SampleError
from brainscale.formats.frame import ENOUGH_VALUES, Frame, percentile_window

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_RGB = ("HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422")  # retired, three samples, and pydicom leaves them so
_VR = {str(name).encode() for name in STANDARD_VR}
_PHOTOMETRIC = {str(name) for name in PhotometricInterpretation}

Limits = tuple[float, float]
Modality = Callable[[np.ndarray], np.ndarray]
Voi = Callable[[np.ndarray], tuple[np.ndarray, Limits]]
T = TypeVar("T")

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
            for number, (pixels, bounds) in enumerate(_shown(ds, planes, frames, window)):
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
    height, width, frames = _number(ds, "Rows"), _number(ds, "Columns"), _count(ds)
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
    number = _number(ds, "NumberOfFrames")
    return None if number is None or number < 0 else max(1, int(number))


def _number(ds: Dataset, keyword: str) -> float | None:
    """An element's first value; None if it is absent or no finite number."""
    try:
        value = ds.get(keyword)
        number = float(value[0] if isinstance(value, MultiValue) else value)
    except Exception:  # noqa: BLE001 (values are converted when asked for, and may hold anything)
        return None
    return number if isfinite(number) else None


def _text(ds: Dataset, keyword: str) -> str:
    try:
        return str(ds.get(keyword) or "").strip(" \0")
    except Exception:  # noqa: BLE001 (as above)
        return ""


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
    with suppress(NotImplementedError):
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


def _shown(
    ds: FileDataset, planes: Iterator[np.ndarray], frames: int, percentiles: Limits
) -> Iterator[tuple[np.ndarray, Limits | None]]:
    """Each frame's grey intensities, and those that become 0 and 255."""
    if ds.SamplesPerPixel == 3 or ds.PhotometricInterpretation == "PALETTE COLOR":
        yield from (_luminance(ds, plane) for plane in planes)
        return
    little = bool(ds.original_encoding[1])
    modality = _each(ds, frames, "PixelValueTransformationSequence", lambda item: _modality(item, little))
    voi = _each(ds, frames, "FrameVOILUTSequence", lambda item: _voi(item, little))
    bits, shared = _stored_bits(ds), None
    if bits <= 8 and "PixelData" in ds and not ds.PixelRepresentation and not any(modality):
        shared = None if bits == ds.BitsAllocated == 8 else (0.0, 2.0**bits - 1)
    elif None in voi:
        held = list(planes)
        shared, planes = _shared_window(held, modality, percentiles), iter(held)
    for plane, rescale, look in zip(planes, modality, voi, strict=True):
        values = rescale(plane) if rescale else plane
        yield look(values) if look else (values, shared)


def _shared_window(held: list[np.ndarray], modality: list[Modality | None], percentiles: Limits) -> Limits:
    step = max(1, -(-sum(plane.size for plane in held) // ENOUGH_VALUES))
    some = [plane.reshape(-1)[::step] for plane in held]
    return percentile_window(
        np.concatenate([f(x) if f else x for x, f in zip(some, modality, strict=True)]), percentiles
    )


def _each(ds: Dataset, frames: int, macro: str, make: Callable[[Dataset], T]) -> list[T]:
    """What `make` gives for each frame of the frame's own functional group, the shared one or the data set."""
    shared = _item(ds, "SharedFunctionalGroupsSequence")
    common = make((shared and _item(shared, macro)) or ds)
    own = [_item(groups, macro) for groups in (ds.get("PerFrameFunctionalGroupsSequence") or [])[:frames]]
    return [common if item is None else make(item) for item in own] + [common] * (frames - len(own))


def _item(ds: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, if there is one."""
    items = ds.get(keyword)
    return items[0] if items else None


def _modality(ds: Dataset, little: bool) -> Modality | None:
    """Stored values → modality values (PS3.3 C.11.1); None if they are the same."""
    if (item := _item(ds, "ModalityLUTSequence")) and (lut := _lut(item, "LUT", little)):
        return lut[0]
    slope, intercept = _number(ds, "RescaleSlope"), _number(ds, "RescaleIntercept")
    if not slope or intercept is None or (slope, intercept) == (1, 0):
        return None
    line = np.float64(slope), np.float64(intercept)
    return lambda stored: stored * line[0] + line[1]


def _voi(ds: Dataset, little: bool) -> Voi | None:
    """Modality values → values of interest and their range (PS3.3 C.11.2), by the first of the alternatives."""
    if (item := _item(ds, "VOILUTSequence")) and (lut := _lut(item, "LUT", little)):
        look, top = lut
        return lambda values: (look(values), (0.0, top))
    centre, width = _number(ds, "WindowCenter"), _number(ds, "WindowWidth")
    function = _text(ds, "VOILUTFunction").upper()
    exact = function in ("LINEAR_EXACT", "SIGMOID")
    if centre is None or width is None or width <= 0 or (width < 1 and not exact):
        return None
    if not exact:
        centre, width = centre - 0.5, width - 1
    low, high = centre - width / 2, centre + width / 2
    if function == "SIGMOID":
        return lambda values: (255 / (1 + np.exp(4 * (0.5 - (values - low) / (high - low)))), (0.0, 255.0))
    return lambda values: (values, (low, high))


def _lut(ds: Dataset, name: str, little: bool) -> tuple[Modality, float] | None:
    """A lookup table and the highest value it can give; None if it makes no sense."""
    entries, first, bits = ds[f"{name}Descriptor"].value
    stored = ds[f"{name}Data"].value
    if not stored or not 1 <= bits <= 16:
        return None
    entries = (entries & 0xFFFF) or 2**16
    words = np.frombuffer(stored, "<u2" if little else ">u2") if isinstance(stored, bytes) else np.atleast_1d(stored)
    if words.size < entries:  # of 8 bits, two to a word
        words = words.astype("<u2").view(np.uint8)
    table = words[:entries].astype(np.uint8 if bits <= 8 else np.uint16)
    # pydicom's own functions index with the type of the table, or of the values, and so wrap around.
    return lambda values: table[np.clip(values.astype(np.int64) - first, 0, table.size - 1)], 2.0**bits - 1


def _luminance(ds: FileDataset, plane: np.ndarray) -> tuple[np.ndarray, Limits | None]:
    """ITU-R 601-2 luma of a frame in colour, as stored or by its palette."""
    bits = _stored_bits(ds)
    if plane.ndim == 2:
        plane = _painted(ds, plane)
        bits = 8 * plane.itemsize
    if plane.dtype == np.uint8:
        return np.asarray(Image.fromarray(plane).convert("L")), None
    return plane @ np.array([0.299, 0.587, 0.114]), (0.0, 2.0**bits - 1)


def _painted(ds: FileDataset, plane: np.ndarray) -> np.ndarray:
    """Palette indices → [H, W, 3]."""
    if "SegmentedRedPaletteColorLookupTableData" in ds:
        return np.ascontiguousarray(apply_color_lut(plane, ds)[..., :3])
    little = bool(ds.original_encoding[1])
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    return np.stack([lut[0](plane) for name in names if (lut := _lut(ds, name, little))], axis=-1)


def _stored_bits(ds: Dataset) -> int:
    return int(_number(ds, "BitsStored") or ds.BitsAllocated)


def _frame(ds: Dataset, pixels: np.ndarray, bounds: Limits | None, number: int | None) -> Frame:
    photometric = _text(ds, "PhotometricInterpretation")
    patient, issuer = _text(ds, "PatientID"), _text(ds, "IssuerOfPatientID")
    return Frame(
        pixels=pixels,
        format="DICOM",
        mode=f"{photometric if photometric in _PHOTOMETRIC else 'unknown'} {_stored_bits(ds)}",
        width=ds.Columns,
        height=ds.Rows,
        number=number,
        limits=bounds,
        inverted=photometric == "MONOCHROME1",
        patient=(f"{patient}|{issuer}" if issuer else patient) if patient else None,
        scan=_text(ds, "SeriesInstanceUID") or None,
    )
