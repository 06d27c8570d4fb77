"""Pictures of heatmaps: overlay, scale, caption, files and their table."""

import hashlib
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from brainscale.errors import RERUN, OutputError
from brainscale.models.bundle import Bundle
from brainscale.models.heatmap_pictures import (
    COLUMNS,
    MIN_SIDE,
    OPACITY,
    WARNING,
    colour_scale,
    draw_picture,
    is_peak_in_head,
    overlay_heatmap,
    write_heatmaps,
)
from brainscale.models.heatmaps import compute_heatmap_batches, load_cpu_engine
from tests.support.bundles import make_bundle, network_with_statistics

SIZE = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "model"
    return make_bundle(folder, network_with_statistics("brainmrnet"), "brainmrnet")


def some_planes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), np.uint8)


def test_an_overlay_grows_with_the_map() -> None:
    plane, heat = some_planes(1)[0], np.zeros((SIZE, SIZE), np.float32)
    heat[0, 0], heat[0, 1], plane[0, :2] = 1, 0.5, 200
    picture = overlay_heatmap(plane, heat)
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[1:], np.stack([plane[1:]] * 3, 2))
    yellow = np.array([0.993248, 0.906157, 0.143936]) * 255  # where viridis ends
    assert np.abs(picture[0, 0] - ((1 - OPACITY) * 200 + OPACITY * yellow)).max() <= 1
    assert np.abs(picture[0, 1].astype(int) - 200).max() > 0


def rows_of(count: int) -> list[dict[str, Any]]:
    ids = [f"ward7/Jane Doé.zip!series/{i}.dcm#12" for i in range(count)]
    return [{"sample_id": s, "probability": 0.9 - i / 100, "prediction": "tumour"} for i, s in enumerate(ids)]


def chunks(path: Path) -> list[bytes]:
    """The kinds of a PNG's chunks."""
    data, at, kinds = path.read_bytes(), 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kinds.append(data[at + 4 : at + 8])
        at += 12 + length
    return kinds


def test_pictures_and_table(bundle: Bundle, tmp_path: Path) -> None:
    planes, rows = some_planes(10), rows_of(10)
    planes.setflags(write=False)  # as planes from a table are
    out = tmp_path / "new" / "pictures"
    table = write_heatmaps(bundle, list(planes), rows, out)
    assert table.schema == COLUMNS
    assert table.equals(pq.read_table(out / "heatmaps.parquet"))
    assert table["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    assert np.allclose(table["probability"].to_pylist(), [row["probability"] for row in rows])
    assert set(table["method"].to_pylist()) == {"integrated gradients"}
    for name in ("deletion", "insertion", "random_deletion", "random_insertion"):
        assert all(0 <= value <= 1 for value in table[name].to_pylist())
    files = table["file"].to_pylist()
    assert {path.name for path in out.iterdir()} == {*files, "heatmaps.parquet"}
    weights, engine = bundle.weights.read_bytes(), load_cpu_engine(bundle)
    heatmaps = np.concatenate(list(compute_heatmap_batches(bundle.info, weights, planes, engine)))
    for rank, (file, plane, heatmap, row) in enumerate(zip(files, planes, heatmaps, rows, strict=True), 1):
        assert file == f"{rank:03d}-{hashlib.sha256(row['sample_id'].encode()).hexdigest()[:12]}.png"
        words = [word for word in re.split(r"\W", row["sample_id"]) if len(word) > 2]
        assert words
        assert not any(word in file.removesuffix(".png") for word in words)
        assert set(chunks(out / file)) == {b"IHDR", b"IDAT", b"IEND"}
        picture = np.asarray(Image.open(out / file))
        side = MIN_SIDE // SIZE * SIZE
        left, right = picture[:side:3, :side:3], picture[:side:3, side : 2 * side : 3]
        assert np.array_equal(left, np.stack([plane] * 3, 2))
        assert np.array_equal(right, overlay_heatmap(plane, heatmap))


def head(side: int = SIZE) -> np.ndarray:
    """A bright disc on black."""
    rows, columns = np.indices((side, side)) - side // 2
    return np.where(np.hypot(rows, columns) < side / 3, 150, 0).astype(np.uint8)


def hot_at(row: int, column: int) -> np.ndarray:
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[row, column] = 1
    return heat


def warned(picture: Image.Image) -> bool:
    return bool((np.asarray(picture)[MIN_SIDE:] == WARNING).all(2).any())


def test_a_picture_warns_of_a_peak_outside_the_head_and_of_no_evidence() -> None:
    inside, outside, nothing = hot_at(32, 32), hot_at(1, 1), np.zeros((SIZE, SIZE), np.float32)
    assert [is_peak_in_head(head(), heat) for heat in (inside, outside, nothing)] == [True, False, None]
    assert is_peak_in_head(np.zeros((SIZE, SIZE), np.uint8), inside) is None
    pictures = [draw_picture(head(), heat, "occlusion") for heat in (inside, outside, nothing)]
    assert [warned(picture) for picture in pictures] == [False, True, True]
    assert len({picture.size for picture in pictures}) == 1


def test_a_colour_scale_runs_from_hot_to_grey() -> None:
    scale = colour_scale(50, 4)
    assert scale.shape == (50, 4, 3)
    assert np.array_equal(scale[-1, 0], [128, 128, 128])
    assert np.array_equal(scale[0, 0], overlay_heatmap(np.full((1, 1), 128, np.uint8), np.ones((1, 1)))[0, 0])
    assert (scale == scale[:, :1]).all()


def test_the_same_call_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_heatmaps(bundle, list(some_planes(2)), rows_of(2), tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 3
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_no_rows_give_an_empty_table(bundle: Bundle, tmp_path: Path) -> None:
    table = write_heatmaps(bundle, [], [], tmp_path / "out")
    assert len(table) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["heatmaps.parquet"]


def test_what_cannot_be_written_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    rows, out = rows_of(1), tmp_path / "out"
    name = write_heatmaps(bundle, list(some_planes(1)), rows, out)["file"][0].as_py()
    for taken in (name, "heatmaps.parquet"):
        (out / taken).unlink()
        (out / taken).mkdir()
        with pytest.raises(OutputError) as error:
            write_heatmaps(bundle, list(some_planes(1)), rows, out)
        assert str(error.value) == f"{out / taken} cannot be written (Is a directory): fix the cause and {RERUN}"
        assert not list(out.glob("*.tmp"))
        (out / taken).rmdir()
        (out / taken).touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write_heatmaps(bundle, list(some_planes(1)), rows, bundle.weights)
