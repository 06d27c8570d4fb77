"""DICOM files are recognised, and every transfer syntax gives the stored values."""

import struct
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from brainscale.config.data_sections import LimitsConfig
from brainscale.reading.formats.recognition import is_dicom
from tests.support.dicom import PLANE, dataset, encapsulated, frame, frames, installed, refusal, written


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_without_preamble_is_recognised_and_decoded(syntax: str) -> None:
    ds = dataset(PLANE if syntax != ExplicitVRBigEndian else PLANE.byteswap())
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    del ds.file_meta
    out = BytesIO()
    pydicom.dcmwrite(out, ds, implicit_vr=implicit, little_endian=little)
    assert is_dicom(out.getvalue()[:160])
    assert np.array_equal(frame(out.getvalue()).pixels, PLANE)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_syntaxes_give_the_same_pixels(syntax: str) -> None:
    ds = dataset(PLANE if syntax != ExplicitVRBigEndian else PLANE.byteswap())
    ds.file_meta.TransferSyntaxUID = syntax
    assert is_dicom(written(ds)[:160])
    assert np.array_equal(frame(ds).pixels, PLANE)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"DICM",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x89PNG\r\n\x1a\n",
        b"BM\x36\x00",
        b"II*\x00\x08\x00\x00\x00",
        b"MM\x00*\x00\x00\x00\x08",
        struct.pack("<i", 348),
        struct.pack(">i", 348),
        struct.pack("<i", 540),
        b"PK\x03\x04\x14\x00",
        b"\x1f\x8b\x08\x00",
        b"patient,label\n1,2\n",
        b"\x02\x00\x02\x00",
        b"\x08\x00\x00\x00",
        b"\x00\x08\x00\x00",
    ],
)
@pytest.mark.parametrize("rest", [b"\x00", b" ", b"\xff", b"a"])
def test_files_of_other_formats_are_not_recognised(head: bytes, rest: bytes) -> None:
    assert not is_dicom(head)
    assert not is_dicom(head.ljust(160, rest))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_lossless_compression_keeps_the_stored_values(syntax: str, dtype: type) -> None:
    stored = np.random.default_rng(1).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (2, 48, 64), dtype)
    ds = dataset(stored, frames=2)
    ds.compress(syntax, generate_instance_uid=False)
    decoded = frames(ds)
    assert [f.number for f in decoded] == [0, 1]
    assert np.array_equal(np.stack([f.pixels for f in decoded]), stored)


@pytest.mark.parametrize(
    "other",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_image_in_several_syntaxes_gives_the_same_pixels(other: str) -> None:
    plain, compressed = frame(installed("MR_small.dcm")), frame(installed(other))
    assert np.array_equal(compressed.pixels, plain.pixels)
    assert compressed.grey_range == plain.grey_range


def jpeg_lossless(plane: np.ndarray, bits: int) -> bytes:
    """ITU-T T.81 process 14, predictor 1; every category has a Huffman code of 5 bits."""
    previous = plane.astype(int)
    predicted = np.roll(previous, 1, axis=1)
    predicted[1:, 0] = previous[:-1, 0]
    predicted[0, 0] = 2 ** (bits - 1)
    written_bits = ""
    for difference in (previous - predicted).reshape(-1).tolist():
        category = abs(difference).bit_length()
        rest = difference if difference > 0 else difference + 2**category - 1
        written_bits += f"{category:05b}" + (f"{rest:0{category}b}" if category else "")
    written_bits += "1" * (-len(written_bits) % 8)
    scan = int(written_bits, 2).to_bytes(len(written_bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = plane.shape
    sof = struct.pack(">HHBHHB3B", 0xFFC3, 11, bits, rows, columns, 1, 1, 0x11, 0)
    dht = struct.pack(">HHB16B", 0xFFC4, 36, 0, *([0] * 4 + [17] + [0] * 11)) + bytes(range(17))
    sos = struct.pack(">HHB2B3B", 0xFFDA, 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8" + sof + dht + sos + scan + b"\xff\xd9"


def test_jpeg_lossless_keeps_the_stored_values() -> None:
    ds = dataset(PLANE, BitsStored=12, HighBit=11)
    assert np.array_equal(frame(encapsulated(ds, [jpeg_lossless(PLANE, 12)], JPEGLosslessSV1)).pixels, PLANE)


def test_jpeg_of_12_bits_is_decoded_exactly() -> None:
    decoded = frame(installed("JPGExtended.dcm"))
    assert decoded.mode == "MONOCHROME2 12"
    assert (decoded.pixels[420, 140], decoded.pixels[230, 120]) == (244, 95)  # as DCMTK decodes it


def test_a_codestream_of_other_signedness_is_decoded() -> None:
    assert frame(installed("J2K_pixelrep_mismatch.dcm")).mode == "MONOCHROME2 13"


def test_a_syntax_without_decoder_is_named() -> None:
    error = refusal(encapsulated(dataset(PLANE), [b"\0" * 8], MPEG2MPML))
    assert (error.code, error.text) == (
        "unsupported_transfer_syntax",
        "no decoder for MPEG2 Main Profile / Main Level",
    )
    data = written(dataset(PLANE)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    error = refusal(data)
    assert error.text == "no decoder for an unknown transfer syntax"


def test_compressed_pixels_without_a_named_syntax_are_refused() -> None:
    ds = encapsulated(dataset(PLANE), [b"\0" * 8], RLELossless)
    data = written(ds)
    bare = data[data.index(b"\x08\x00\x16\x00UI") :]
    assert is_dicom(bare[:160])
    assert refusal(bare).code == "unsupported_transfer_syntax"


def test_a_deflated_data_set_is_read() -> None:
    ds = dataset(PLANE)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(frame(ds).pixels, PLANE)


def test_a_deflate_bomb_is_refused() -> None:
    ds = dataset(PLANE)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.PixelData = b"\0" * (3 * 2**20)
    data = written(ds)
    assert len(data) < 2**14
    assert refusal(data, LimitsConfig(file_mib=2)).code == "compression_bomb"
