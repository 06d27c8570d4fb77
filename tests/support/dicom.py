"""DICOM objects made on the spot, and those that pydicom installs."""

import functools
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import dicom
from brainscale.reading.formats.frame import Frame

INSTALLED = Path(pydicom.__file__).parent / "data" / "test_files"
LIMITS, PERCENTILES = LimitsConfig(), (1.0, 99.0)
NAME = "Doe^John SECRET 19700101"
PLANE = np.random.default_rng(0).integers(0, 4096, (6, 10), np.uint16)


def installed(name: str) -> bytes:
    path = INSTALLED / name
    if not path.exists():
        pytest.skip(f"NOT TESTED: this pydicom brings no {name}")
    return path.read_bytes()


def dataset(pixels: np.ndarray, frames: int | None = None, **elements: object) -> Dataset:
    """An MR image of [H, W], [H, W, 3] or, with `frames`, [N, H, W] pixels."""
    bits, colour = 8 * pixels.itemsize, pixels.shape[-1] == 3
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = MRImageStorage, "1.2.3.4", "1.2.3"
    ds.PatientID, ds.PatientName = NAME, NAME
    ds.Rows, ds.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    if frames:
        ds.NumberOfFrames = frames
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.add_new("PixelData", "OB" if bits == 8 else "OW", pixels.tobytes() + b"\0" * (pixels.nbytes % 2))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def written(ds: Dataset, preamble: bool = True) -> bytes:
    out = BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=preamble)
    return out.getvalue()


def item(**elements: object) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def lut(first: int, entries: list[int], bits: int) -> Dataset:
    ds = Dataset()
    ds.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    ds.add_new("LUTData", "US", entries)
    return ds


def frames(data: bytes | Dataset, limits: LimitsConfig = LIMITS) -> list[Frame]:
    return list(dicom.decode(data if isinstance(data, bytes) else written(data), limits, PERCENTILES))


def frame(data: bytes | Dataset) -> Frame:
    (only,) = frames(data)
    return only


def refusal(data: bytes | Dataset, limits: LimitsConfig = LIMITS) -> SampleError:
    with pytest.raises(SampleError) as caught:
        frames(data, limits)
    return caught.value


def outcome(data: bytes) -> str:
    """An error's code and text, or nothing."""
    try:
        frames(data)
    except SampleError as error:
        return str(error)
    return ""


def encapsulated(ds: Dataset, codes: list[bytes], syntax: str) -> Dataset:
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(codes)
    ds["PixelData"].is_undefined_length = True
    return ds


NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
SYNTAXES = [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless]


@functools.cache
def volume(syntax: str) -> bytes:
    plane = np.tile(PLANE, (6, 4))
    ds = dataset(np.stack([plane, plane]), frames=2)
    if syntax in NATIVE:
        ds.file_meta.TransferSyntaxUID = syntax
    else:
        ds.compress(syntax, generate_instance_uid=False)
    return written(ds)
