"""A DICOM object's pixel data → the stored values of each frame, by pydicom's decoders.

What old and careless writers leave out or get wrong is mended here, as GDCM, DCMTK and dcm2niix do: missing elements
have defaults, values may stand in the upper bits, and the compressed bytes themselves tell what compressed them.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from struct import unpack_from

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options, get_expected_length
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from brainscale.errors import SampleError
from brainscale.reading.formats.codestream import codestream_header
from brainscale.reading.formats.dicom_grey import number_of, text_of

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
NO_GREY = ("ARGB", "CMYK", "HSV", "YBR_PARTIAL_420", "YBR_PARTIAL_422")  # retired, and not converted by pydicom
READ_BITS = (1, 8, 16, 32, 64)  # of a stored value; the standard's own are 1 and whole bytes
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
KINDS = {
    "JPEG": (JPEGBaseline8Bit, JPEGExtended12Bit),
    "JPEG lossless": (JPEGLossless, JPEGLosslessSV1),
    "JPEG-LS": (JPEGLSLossless, JPEGLSNearLossless),
    "JPEG 2000": (
        *(JPEG2000, JPEG2000Lossless, JPEG2000MC, JPEG2000MCLossless),
        *(HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL),
    ),
    "RLE": (RLELossless,),
}
"""Kinds of compression, with their transfer syntaxes; the first is taken where a file names another kind."""
ITEM = b"\xfe\xff\x00\xe0"


def complete_pixel_description(ds: Dataset) -> None:
    """Fill in the elements of the Image Pixel Module that are absent or empty, with the defaults of other readers."""
    photometric = text_of(ds, "PhotometricInterpretation")
    colour = photometric.startswith(("RGB", "YBR"))
    if number_of(ds, "SamplesPerPixel") is None:
        ds.SamplesPerPixel = 3 if colour else 1
    if not photometric:
        has_palette = "RedPaletteColorLookupTableData" in ds
        grey = "PALETTE COLOR" if has_palette else "MONOCHROME2"
        ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else grey
    if ds.SamplesPerPixel == 3 and number_of(ds, "PlanarConfiguration") is None:
        ds.PlanarConfiguration = 0
    if not number_of(ds, "BitsAllocated"):
        ds.BitsAllocated = _bits_allocated(ds)
    if not number_of(ds, "BitsStored"):
        ds.BitsStored = ds.BitsAllocated
    if number_of(ds, "PixelRepresentation") is None:
        ds.PixelRepresentation = 0


def _bits_allocated(ds: Dataset) -> int:
    """Return the size of a stored value, by the bits that count, or by the length of the pixel data."""
    if "PixelData" not in ds:
        return 32 if "FloatPixelData" in ds else 64
    bits = int(number_of(ds, "BitsStored") or 0)
    if not bits:
        values = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.NumberOfFrames
        bits = 8 * len(ds.PixelData or b"") // values
    return next((size for size in (8, 16, 32) if bits <= size), 64) if bits else 16


def stored_planes(ds: FileDataset, frames: int) -> Iterator[np.ndarray]:
    """Yield the stored values of each frame: [H, W], also of the luminance of YBR; or [H, W, 3] in RGB.

    Raises:
        SampleError: `unsupported_transfer_syntax`, `unsupported_format`, `truncated` or `corrupt`.
    """
    if ds.PhotometricInterpretation in NO_GREY:
        raise SampleError("unsupported_format", f"no conversion of {ds.PhotometricInterpretation} to grey")
    if ds.BitsAllocated not in READ_BITS:  # such as values of 12 bits without gaps, which were retired
        text = f"values of {ds.BitsAllocated} bits; those of {', '.join(map(str, READ_BITS))} are read"
        raise SampleError("unsupported_format", text)
    syntax = _transfer_syntax(ds)
    if syntax in NATIVE:
        yield from _native_planes(ds, frames, syntax)
    else:
        yield from _decompressed_planes(ds, frames, syntax)


def _native_planes(ds: FileDataset, frames: int, syntax: UID) -> Iterator[np.ndarray]:
    stored = next(ds[keyword].value or b"" for keyword in PIXELS if keyword in ds)
    if len(stored) < get_expected_length(ds):
        text = f"the pixel data are too short for {frames} frame(s) of {ds.Columns} × {ds.Rows} pixels"
        raise SampleError("truncated", text)
    ds.file_meta.TransferSyntaxUID = syntax
    shift = _unused_low_bits(ds)
    options = {"bits_stored": ds.BitsStored + shift} if "PixelData" in ds else {}
    for plane, facts in _decoder(syntax).iter_array(ds, raw=True, allow_excess_frames=False, **options):
        yield _without_chroma(plane, facts) >> shift if shift else _without_chroma(plane, facts)


def _decompressed_planes(ds: FileDataset, frames: int, syntax: UID) -> Iterator[np.ndarray]:
    _decoder(syntax)
    # Compressed colour is by pixel, or as the decoder says, whatever the data set claims.
    options = as_pixel_options(ds, number_of_frames=1, pixel_keyword="PixelData", planar_configuration=0)
    codestreams = generate_frames(
        ds.PixelData, number_of_frames=frames, extended_offsets=options.pop("extended_offsets", None)
    )
    count = 0
    for codestream in islice(codestreams, frames):
        header = codestream_header(codestream)
        # Decoders allocate what the codestream declares.
        if syntax != RLELossless and (not header or header.shape != (ds.Rows, ds.Columns, ds.SamplesPerPixel)):
            raise SampleError("corrupt", "the size in the compressed image differs from the size in the DICOM header")
        precision = header.precision if header else None
        shift = _unused_low_bits(ds) if precision is None or precision > ds.BitsStored else 0
        options["bits_stored"] = ds.BitsStored + shift
        # One by one, since pydicom's iterator fails where the signs of codestream and data set differ.
        decoder = _decoder(syntax, precision or ds.BitsStored)
        plane = _without_chroma(*decoder.as_array(encapsulate([codestream], has_bot=False), raw=True, **options))
        yield plane >> shift if shift else plane
        count += 1
    if count < frames:
        raise SampleError("truncated", f"only {count} of {frames} frames are in the file")


def _without_chroma(plane: np.ndarray, facts: dict[str, str | int]) -> np.ndarray:
    """Return the luminance of YBR, which is its first component (PS3.3 C.7.6.3.1.2), and all else as it is."""
    return plane[..., 0] if facts["photometric_interpretation"] in ("YBR_FULL", "YBR_FULL_422") else plane


def _unused_low_bits(ds: Dataset) -> int:
    """Return by how many bits the stored values stand above bit 0: an old HighBit beyond BitsStored - 1."""
    high_bit = number_of(ds, "HighBit")
    shift = 0 if high_bit is None else int(high_bit) + 1 - ds.BitsStored
    return shift if shift > 0 and ds.BitsStored + shift <= ds.BitsAllocated else 0


def _transfer_syntax(ds: FileDataset) -> UID:
    """Return the transfer syntax of the pixel data, which may be another one than the file names."""
    named = UID(str(ds.file_meta.get("TransferSyntaxUID") or ""))
    is_compression = any(named in syntaxes for syntaxes in KINDS.values())
    stored = ds.get("PixelData") or b""
    if "PixelData" not in ds or not (
        ds["PixelData"].is_undefined_length or (is_compression and stored.startswith(ITEM))
    ):
        if named and named not in NATIVE and not is_compression:
            return named
        # The data set was read so, whatever the name; a name of a compression may outlive a decompression.
        implicit, little_endian = ds.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        return ImplicitVRLittleEndian if implicit else explicit
    header = codestream_header(_first_fragment(stored))
    if header is not None and named not in KINDS[header.kind]:
        return KINDS[header.kind][0]
    if not named or named in NATIVE:
        raise SampleError("unsupported_transfer_syntax", "compressed pixels, but the file does not name how")
    return named


def _first_fragment(stored: bytes) -> bytes:
    """Return the first fragment of encapsulated pixel data, which comes after the table of offsets."""
    offset = 0
    for _ in range(2):
        if len(stored) < offset + 8:
            return b""
        start, offset = offset + 8, offset + 8 + unpack_from("<I", stored, offset + 4)[0]
    return stored[start:offset]


def _decoder(syntax: UID, precision: int = 8) -> Decoder:
    # GDCM decodes 12-bit JPEG exactly, but pydicom asks it to only under the name of the lossless syntax.
    is_12_bit = syntax in KINDS["JPEG"] and precision > 8
    with suppress(NotImplementedError):  # raised for a syntax that pydicom knows no decoder of
        decoder = get_decoder(JPEGLossless if is_12_bit else syntax)
        if decoder.is_available:
            return decoder
    name = syntax.name if syntax.type == "Transfer Syntax" else "an unknown transfer syntax"
    raise SampleError("unsupported_transfer_syntax", f"no decoder for {name}")
