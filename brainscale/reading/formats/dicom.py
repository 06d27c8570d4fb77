"""DICOM through pydicom: bytes → grey frames, once what the object declares is within the limits.

Overlays are left out. Of the text in a data set only the identifiers of patient and series leave this module, and
defined terms (`dicom_acquisition`). No text at all leaves it in an error: pydicom's messages quote values, so they are
never passed on.
"""

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from pydicom import Dataset, FileDataset, dcmread
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.acquisition import Acquisition
from brainscale.reading.formats.dicom_acquisition import describe_frames
from brainscale.reading.formats.dicom_geometry import Geometry, find_instance, find_number, find_places
from brainscale.reading.formats.dicom_grey import Grey, grey_frames, number_of, stored_bits, text_of
from brainscale.reading.formats.dicom_pixels import PIXELS, complete_pixel_description, stored_planes
from brainscale.reading.formats.frame import Frame
from brainscale.reading.formats.recognition import find_byte_order

_PHOTOMETRIC = {str(name) for name in PhotometricInterpretation}

logging.getLogger("pydicom").propagate = False  # its log quotes values too


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the beginning of an object says of its series; identifiers as stored."""

    scan: str | None = None
    instance: str | None = None
    geometry: Geometry | None = None
    number: float | None = None
    frames: int = 1
    width: int | None = None
    height: int | None = None
    inverted: bool = False


def read_head(data: bytes, limits: LimitsConfig) -> Head:
    """Return what an object, or its beginning, says of its series; nothing where it cannot be read."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        ds = _read(data, limits, header_only=True)
        height, width = number_of(ds, "Rows"), number_of(ds, "Columns")
        return Head(
            scan=text_of(ds, "SeriesInstanceUID") or None,
            instance=find_instance(ds, None),
            geometry=next(find_places(ds, 1)),
            number=find_number(ds, None),
            frames=_frame_count(ds) or 1,
            width=None if width is None else int(width),
            height=None if height is None else int(height),
            inverted=text_of(ds, "PhotometricInterpretation") == "MONOCHROME1",
        )
    return Head()


def decode(
    data: bytes, limits: LimitsConfig, percentiles: tuple[float, float], *, by_volume: bool = False
) -> Iterator[Frame]:
    """Decode every frame of an object.

    Args:
        data: the file's bytes.
        limits: larger objects are refused before decoding.
        percentiles: become 0 and 255 where the object names no window.
        by_volume: whether the range of a slice comes from its series, and no window of its own counts.

    Raises:
        SampleError: `no_pixels`, `too_many_pixels`, `too_many_frames`, `empty_image`, `compression_bomb`,
            `unsupported_transfer_syntax`, `unsupported_format`, `truncated` or `corrupt`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            ds = _read(data, limits)
            frames = _check(ds, limits)
            complete_pixel_description(ds)
            places = list(find_places(ds, frames))
            planes, in_space = stored_planes(ds, frames), None not in places
            greys = grey_frames(ds, planes, frames, percentiles, by_volume=by_volume, in_space=in_space)
            facts = zip(greys, describe_frames(ds, frames), places, strict=True)
            for number, (grey, acquisition, place) in enumerate(facts):
                yield _frame(ds, grey, acquisition, place, number if frames > 1 else None)
    except (SampleError, MemoryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 (damage can surface anywhere; a panic in Rust is no Exception)
        raise SampleError("corrupt", f"the DICOM pixels cannot be decoded ({type(error).__name__})") from None


def _read(data: bytes, limits: LimitsConfig, *, header_only: bool = False) -> FileDataset:
    stream = BytesIO(data)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    start, syntax = stream.tell(), meta.get("TransferSyntaxUID")
    order = find_byte_order(data[start : start + 160])
    named_order = None if syntax == DeflatedExplicitVRLittleEndian else ">" if syntax == ExplicitVRBigEndian else "<"
    if order and order != named_order:  # the file names another order of bytes, or a compression, than it has
        return dcmread(BytesIO(data[start:]), force=True, stop_before_pixels=header_only)
    if syntax == DeflatedExplicitVRLittleEndian:
        _check_inflated(data[start:], limits)
    ds = dcmread(BytesIO(data), force=True, stop_before_pixels=header_only)
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


def _frame(ds: Dataset, grey: Grey, acquisition: Acquisition, geometry: Geometry | None, number: int | None) -> Frame:
    photometric = text_of(ds, "PhotometricInterpretation")
    patient, issuer = text_of(ds, "PatientID"), text_of(ds, "IssuerOfPatientID")
    return Frame(
        pixels=grey.pixels,
        opacity=grey.opacity,
        format="DICOM",
        mode=f"{photometric if photometric in _PHOTOMETRIC else 'unknown'} {stored_bits(ds)}",
        width=ds.Columns,
        height=ds.Rows,
        number=number,
        grey_range=grey.grey_range,
        inverted=photometric == "MONOCHROME1",
        in_series=grey.in_series,
        rescale=grey.rescale,
        instance=find_instance(ds, number),
        geometry=geometry,
        sequence=find_number(ds, number),
        patient=patient or None,
        issuer=issuer or None,
        scan=text_of(ds, "SeriesInstanceUID") or None,
        acquisition=acquisition,
    )
