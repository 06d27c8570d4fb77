"""Sources, formats, preprocessing and reading: from any bytes to rows."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainscale.config.sections import LimitsConfig, PreprocessConfig
from brainscale.errors import SampleError, SourceError
from brainscale.reading.formats import raster
from brainscale.reading.formats.frame import Frame
from brainscale.reading.preprocess import make_plane, to_uint8
from brainscale.reading.reader import COLUMNS, file_table, read_file, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile, list_files
from tests.conftest import write_image

SPEC = PreprocessConfig(image_size=64, crop=1.0)
WISH = ReadRequest(preprocess=SPEC)
GREY = np.add.outer(np.arange(48), 3 * np.arange(64)).astype(np.uint8)  # 48 × 64


def only(data: bytes, limits: LimitsConfig | None = None, min_side: int | None = None) -> Frame:
    (frame,) = raster.decode(data, limits or LimitsConfig(), min_side)
    return frame


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_lossless_formats_give_the_grey_pixels(kind: str, mode: str) -> None:
    colour = Image.fromarray(GREY).convert("RGB")
    image = colour.quantize(256, dither=Image.Dither.NONE) if mode == "P" else colour.convert(mode)
    frame = only(encoded(image, kind))
    assert (frame.format, frame.width, frame.height) == (kind, 64, 48)
    assert np.abs(frame.pixels.astype(int) - GREY).max() <= (2 if mode == "P" else 0)


def test_jpeg_in_colour_and_grey() -> None:
    for mode in ("L", "RGB", "CMYK"):
        frame = only(encoded(Image.fromarray(GREY).convert("RGB").convert(mode), "JPEG", quality=95))
        assert frame.pixels.shape == GREY.shape
        assert np.abs(frame.pixels.astype(int) - GREY).mean() < 6


def test_a_large_jpeg_is_decoded_smaller_with_the_same_plane() -> None:
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 10), np.uint8))
    large = encoded(coarse.resize((1000, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole = only(large)
    small = only(large, min_side=128)
    assert small.pixels.size < whole.pixels.size / 4
    assert (small.width, small.height) == (1000, 1200)
    difference = make_plane(whole.pixels, SPEC).astype(int) - make_plane(small.pixels, SPEC)
    assert np.abs(difference).mean() < 2


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right
    frame = only(encoded(Image.fromarray(GREY), "PNG", exif=exif))
    assert (frame.width, frame.height) == (48, 64)
    assert np.array_equal(frame.pixels, np.rot90(GREY, -1))


def test_transparent_pixels_become_background() -> None:
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:4, :, 3] = 0
    frame = only(encoded(Image.fromarray(pixels), "PNG"))
    assert frame.pixels[:4].max() == 0
    assert frame.pixels[4:].min() > 100


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_range_until_the_window(kind: str) -> None:
    deep = (GREY.astype(np.uint16) * 17) + 300
    frame = only(encoded(Image.fromarray(deep), kind))
    assert frame.pixels.max() == deep.max()
    grey = to_uint8(frame.pixels, (0.0, 100.0))
    assert np.abs(grey.astype(int) - np.rint((deep - 300) / (deep.max() - 300) * 255)).max() <= 1


def test_window_ignores_outliers_and_what_is_not_finite() -> None:
    values = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    values[0, 0], values[0, 1], values[0, 2] = 1e9, np.nan, -np.inf
    grey = to_uint8(values, (0.5, 99.5))
    assert grey[0, 0] == 255
    assert grey[0, 1] == grey[0, 2] == 0
    assert 120 < grey[50, 50] < 136
    assert to_uint8(np.full((3, 3), 7, np.int32), (0.5, 99.5)).max() == 0
    assert to_uint8(np.full((3, 3), np.nan, np.float32), (0.5, 99.5)).max() == 0


def test_the_plane_is_pillows_resize_and_the_centre() -> None:
    spec = PreprocessConfig(image_size=224)
    whole = Image.fromarray(GREY).resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    before = GREY.copy()
    assert np.abs(make_plane(GREY, spec).astype(int) - np.asarray(whole)).max() <= 2
    assert np.array_equal(GREY, before)
    uncropped = Image.fromarray(GREY).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(make_plane(GREY, SPEC), np.asarray(uncropped))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"hello, I am text", "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n", "corrupt"),
        (encoded(Image.fromarray(GREY), "PNG")[:60], "corrupt"),
        (encoded(Image.fromarray(GREY), "JPEG")[:400], "corrupt"),
        (encoded(Image.fromarray(GREY), "TIFF")[:900], "corrupt"),
    ],
)
def test_bad_files_are_rows_with_a_code(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    (sample,) = read_file(SourceFile(sample_id="x.jpg", uri=str(path)), WISH)
    assert sample.error_code == code
    assert sample.error
    assert "\n" not in sample.error
    assert str(tmp_path) not in sample.error
    assert sample.plane is None


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(SampleError, match="64 × 48 pixels exceed limits.pixels = 100"):
        only(encoded(Image.fromarray(GREY), "PNG"), LimitsConfig(pixels=100))


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP"])
def test_each_page_is_a_frame(kind: str) -> None:
    pages = [Image.fromarray(np.roll(GREY, 8 * i, axis=1)) for i in range(3)]
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:], lossless=True)
    frames = list(raster.decode(data, LimitsConfig()))
    assert [frame.number for frame in frames] == [0, 1, 2]
    for frame, page in zip(frames, pages, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.asarray(page)).max() <= 1
    with pytest.raises(SampleError, match="too_many_frames: 3 frames exceed limits.frames = 2"):
        list(raster.decode(data, LimitsConfig(frames=2)))


def test_a_file_that_is_gone_is_a_row(tmp_path: Path) -> None:
    (sample,) = read_file(SourceFile(sample_id="a", uri=str(tmp_path / "gone")), WISH)
    assert (sample.error_code, sample.error) == ("unreadable", "the file does not exist any more")


def test_listing_finds_everything_in_one_order(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a/1.jpg", ".hidden/x", "_y", "a/deep/er/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    ids = [unit.sample_id for unit in list_files([str(tmp_path)])]
    assert ids == sorted([".hidden/x", "_y", "a/1.jpg", "a/deep/er/z", "b/2.PNG"])
    assert [u.sample_id for u in list_files([f"{tmp_path}/a/**/*"])] == ["1.jpg", "deep/er/z"]
    assert [u.sample_id for u in list_files([f"{tmp_path}/_y"])] == ["_y"]
    assert [u.sample_id for u in list_files([f"file://{tmp_path}/a"])] == ["1.jpg", "deep/er/z"]


def test_odd_names_and_what_is_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    write_image(folder / "a b#1!%21.png")
    shutil.copy(folder / "a b#1!%21.png", os.fsencode(folder) + b"/caf\xe9.png")
    (folder / "broken").symlink_to("nowhere")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    rows = [
        row for table in read_tables(file_table(list_files([str(folder)])), request=WISH) for row in table.to_pylist()
    ]
    assert {row["sample_id"]: row["error_code"] for row in rows} == {
        "a b%231%21%2521.png": None,
        "broken": "unreadable",
        "caf\\xe9.png": None,
        "folder": "not_a_file",
        "pipe": "not_a_file",
    }


def test_a_list_of_files_may_name_what_is_gone(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        write_image(tmp_path / "s" / name)
    lines = [str(tmp_path / "s" / name) for name in ("b/2.png", "a/1.png", "gone.png")]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n\n")
    units = list_files([f"@{tmp_path}/list.txt"])
    assert [unit.sample_id for unit in units] == ["a/1.png", "b/2.png", "gone.png"]
    assert [sample.error_code for file in units for sample in read_file(file, WISH)] == [None, None, "unreadable"]
    with pytest.raises(SourceError, match="is not a list of files"):
        list_files([f"@{tmp_path}/nowhere.txt"])
    (tmp_path / "keys.txt").write_text("s3://key:secret@bucket/scan\n")
    with pytest.raises(SourceError, match=r"^s3://bucket/scan: keys do not belong in an address"):
        list_files([f"@{tmp_path}/keys.txt"])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SourceError, match="holds no files"):
        list_files([f"@{tmp_path}/empty.txt"])


def test_several_sources_never_share_an_id(tmp_path: Path) -> None:
    for side in ("p", "q"):
        (tmp_path / side / "scans").mkdir(parents=True)
        (tmp_path / side / "scans" / "1").write_bytes(b"1")
    ids = [u.sample_id for u in list_files([str(tmp_path / "p" / "scans"), str(tmp_path / "q" / "scans")])]
    assert ids == ["scans/1", "scans~2/1"]
    files = [str(tmp_path / side / "scans" / "1") for side in ("p", "q")]
    assert [u.sample_id for u in list_files([*files, str(tmp_path / "p")])] == ["1", "1~2", "p/scans/1"]
    (tmp_path / "scans~2").mkdir()
    (tmp_path / "scans~2" / "1").write_bytes(b"1")
    with pytest.raises(SourceError, match="Two files would have the sample id 'scans~2/1'"):
        list_files([str(tmp_path / "p" / "scans"), str(tmp_path / "q" / "scans"), str(tmp_path / "scans~2")])


def test_sources_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        list_files([str(tmp_path / "nowhere")])
    with pytest.raises(SourceError, match="holds no files"):
        list_files([str(tmp_path)])
    with pytest.raises(SourceError, match="no address that can be read"):
        list_files(["gopher://x/y"])


def test_a_table_has_a_row_for_each_unit(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    units = file_table(list_files([str(tmp_path)]))
    (table,) = read_tables(units, request=WISH)
    assert table.schema == COLUMNS
    assert table["error_code"].to_pylist() == [None, "unsupported_format"]
    assert table["file_rows"].to_pylist() == [1, 1]
    assert len(table["plane"][0].as_py()) == 64 * 64
    (bare,) = read_tables(units, request=ReadRequest(preprocess=SPEC, planes=False, hashes=True))
    assert bare["plane"].null_count == 2
    assert bare["phash"].null_count == 1
