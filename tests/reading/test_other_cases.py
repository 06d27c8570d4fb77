"""Files of other kinds that other tools were reported to stumble over: JPEG, PNG, zip, huge headers, odd names."""

import os
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading.formats import dicom, raster
from brainscale.reading.formats.recognition import is_dicom
from brainscale.reading.preprocess import to_grey
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample
from tests.support.dicom import dataset, written
from tests.support.files import encoded
from tests.support.head import difference, head
from tests.support.tiff import tiff

REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64, crop=1.0))
GREY = np.rint(head(128, 128) * 255).astype(np.uint8)


def grey(data: bytes) -> np.ndarray:
    (frame,) = raster.decode(data, LimitsConfig())
    return to_grey(frame, (0.5, 99.5))


def code(data: bytes) -> str:
    with pytest.raises(SampleError) as raised:
        if is_dicom(data):
            list(dicom.decode(data, LimitsConfig(), (0.5, 99.5)))
        else:
            list(raster.decode(data, LimitsConfig()))
    return raised.value.code


def read(folder: Path) -> dict[str, Sample]:
    return {sample.sample_id: sample for sample in read_samples(folder, REQUEST)}


def png(seed: int) -> bytes:
    return encoded(Image.fromarray(np.rint(head(seed=seed) * 255).astype(np.uint8)), "PNG")


def test_jpeg_in_cmyk_turned_and_cut_short() -> None:
    cmyk = encoded(Image.fromarray(GREY).convert("RGB").convert("CMYK"), "JPEG", quality=97)
    assert difference(grey(cmyk), GREY) <= 8
    exif = Image.Exif()
    exif[274] = 6
    turned = encoded(Image.fromarray(GREY), "JPEG", quality=97, exif=exif)
    assert difference(grey(turned), np.rot90(GREY, -1)) <= 8
    progressive = encoded(Image.fromarray(GREY), "JPEG", quality=95, progressive=True)
    assert code(progressive[: len(progressive) * 6 // 10]) == "corrupt"


def test_jpegs_that_pillow_does_not_decode_are_unsupported() -> None:
    plain = encoded(Image.fromarray(GREY), "JPEG")
    start = plain.index(b"\xff\xc0")
    for marker, precision in ((b"\xff\xc1", 12), (b"\xff\xf7", 8), (b"\xff\xc3", 16)):
        assert code(
            plain[:start] + marker + plain[start + 2 : start + 4] + bytes([precision]) + plain[start + 5 :]
        ) in (
            "unsupported_format",
            "corrupt",
        )


def test_an_animated_png_whose_first_picture_stands_apart() -> None:
    pictures = [Image.fromarray(np.rint(head(seed=i) * 255).astype(np.uint8)) for i in range(4)]
    data = encoded(pictures[0], "PNG", save_all=True, append_images=pictures[1:], default_image=True)
    decoded = list(raster.decode(data, LimitsConfig()))
    assert [frame.number for frame in decoded] == [0, 1, 2, 3]
    for frame, picture in zip(decoded, pictures, strict=True):
        assert difference(frame.pixels, np.asarray(picture)) <= 1


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiff_of_few_bits(bits: int, photometric: int) -> None:
    levels = (GREY >> (8 - bits)).astype(int)
    per_byte = 8 // bits
    packed = sum(levels[:, i::per_byte] << (8 - bits * (i + 1)) for i in range(per_byte)).astype(np.uint8)
    data = tiff(packed, photometric, bits=bits)
    width = struct.pack("<HHII", 256, 4, 1, packed.shape[1])
    assert data.count(width) == 1
    shown = np.rint(levels * 255 / (2**bits - 1)).astype(np.uint8)
    assert (
        difference(
            grey(data.replace(width, struct.pack("<HHII", 256, 4, 1, 128))), shown if photometric else 255 - shown
        )
        <= 1
    )


@pytest.mark.parametrize("alpha", [0, 1, 2])
@pytest.mark.parametrize("colours", [1, 3])
def test_tiff_of_8_bits_with_alpha(alpha: int, colours: int) -> None:
    share = np.where(np.arange(128) < 64, 127, 255).astype(np.uint8) * np.ones_like(GREY)
    shown = np.rint(GREY * (share / 255)) if alpha == 2 else GREY
    stored = np.where(np.arange(128) < 64, GREY // 2, GREY) if alpha == 1 else GREY
    shown = stored if alpha == 1 else shown
    data = tiff(np.dstack([stored] * colours + [share]), 1 if colours == 1 else 2, extra=(alpha,))
    assert difference(grey(data), shown) <= 2


def test_tiff_of_8_bits_in_cmyk_and_ycbcr() -> None:
    ink = 255.0 - GREY
    cmyk = np.rint(ink * (ink / 255)).astype(np.uint8)
    assert difference(grey(tiff(np.dstack([GREY] * 4), 5)), cmyk) <= 1
    assert difference(grey(tiff(np.dstack([GREY, np.full((128, 128, 2), 128, np.uint8)]), 6)), GREY) <= 1


def test_headers_that_promise_too_much_are_refused_at_once() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    assert code(huge) == "too_many_pixels"
    jpeg = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 60_000, 60_000)
    assert code(bytes(jpeg)) == "too_many_pixels"
    deep = bytearray(tiff(np.zeros((8, 8), np.uint32)))
    for tag in (256, 257):
        start = deep.index(struct.pack("<HHII", tag, 4, 1, 8))
        deep[start + 8 : start + 12] = struct.pack("<I", 60_000)
    assert code(bytes(deep)) == "too_many_pixels"
    assert code(written(dataset(np.zeros((8, 8), np.uint16), Rows=60_000, Columns=60_000))) == "too_many_pixels"


def test_zip_archives_of_many_kinds(tmp_path: Path) -> None:
    plain = BytesIO()
    with zipfile.ZipFile(plain, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("yes/1.png", png(1))
        archive.writestr("no/2.png", png(2))
    whole = plain.getvalue()
    (tmp_path / "behind.zip").write_bytes(whole + b"\n")
    (tmp_path / "sfx.exe").write_bytes(b"MZ" + b"\x90" * 4000 + whole)
    for name, local, central, change in (("deflate64", 8, 10, 9), ("encrypted", 6, 8, 1), ("crc", 14, 16, 0x5A)):
        changed = bytearray(whole)
        for signature, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
            changed[changed.index(signature) + offset] = change
        (tmp_path / f"{name}.zip").write_bytes(bytes(changed))
    with zipfile.ZipFile(tmp_path / "names.zip", "w") as archive:
        archive.writestr("yes/Größe 1.png", png(3))
        twice = zipfile.ZipInfo("yes/dup.png")
        archive.writestr(twice, png(4))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(twice, png(5))
        archive.writestr("no/a;b?c=d&e#f%20!g.png", png(6))
    with zipfile.ZipFile(tmp_path / "zip64.zip", "w") as archive, archive.open("1.png", "w", force_zip64=True) as file:
        file.write(png(7))
    assert {name: sample.error_code for name, sample in read(tmp_path).items()} == {
        "behind.zip!yes/1.png": None,
        "behind.zip!no/2.png": None,
        "sfx.exe": "unsupported_format",
        "deflate64.zip!yes/1.png": "unsupported_compression",
        "deflate64.zip!no/2.png": None,
        "encrypted.zip!yes/1.png": "encrypted",
        "encrypted.zip!no/2.png": None,
        "crc.zip!yes/1.png": "corrupt_member",
        "crc.zip!no/2.png": None,
        "names.zip!yes/Größe 1.png": None,
        "names.zip!yes/dup.png": None,
        "names.zip!yes/dup.png~2": None,
        "names.zip!no/a;b?c=d&e%23f%20%21g.png": None,
        "zip64.zip!1.png": None,
    }


def test_names_of_any_kind_links_and_pipes(tmp_path: Path) -> None:
    names = ["a b", "c#1", "d%20e", "f!g", "h;i", "j?k", "l\nm", "n:o", "p😀", "q%23r", "-s", "*t", "[u]"]
    for seed, name in enumerate(names):
        (tmp_path / f"{name}.png").write_bytes(png(seed))
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/v\xff\xfe.png")).write_bytes(png(77))
    (tmp_path / "empty" / "1").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("..")
    (tmp_path / "broken.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    samples = read(tmp_path)
    assert len(samples) == len(names) + 4
    errors = {name: sample.error_code for name, sample in samples.items() if sample.error_code}
    assert errors == {"loop": "not_a_file", "broken.png": "unreadable", "pipe": "not_a_file"}
