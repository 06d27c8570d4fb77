"""Series on a real Ray: index, planes of a manifest, scores and a resumed job agree on windows, marks and order."""

import itertools
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from brainscale.config.data_sections import LimitsConfig
from brainscale.config.files import load_config
from brainscale.dataset.from_sources import index_sources
from brainscale.errors import ManifestError
from brainscale.models.bundle import Bundle
from brainscale.reading.keys import PatientKey
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.scoring import blocks
from brainscale.scoring.bulk import score_files
from brainscale.training.plane_store import materialise_planes
from tests.support.files import zipped
from tests.support.runs import scores
from tests.support.series import as_enhanced, as_nifti, as_series, localizer, phantom

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
KEY = PatientKey(secret=b"k" * 16, random=False)
CONFIG = load_config(None, ["data.image_size=64", "data.crop=1.0"])
COLUMNS = ("slice_index", "window_low", "window_high", "window_of", "empty")


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return phantom()


@pytest.fixture(scope="module")
def source(volume: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume as NIfTI, as a series in two folders, as one that is half in a zip, and as one object."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "a.nii").write_bytes(as_nifti(volume))
    (folder / "e.dcm").write_bytes(as_enhanced(volume, series="1.2.5"))
    (folder / "scout").write_bytes(localizer())
    for name in ("x", "y", "half"):
        (folder / name).mkdir()
    for number, data in enumerate(as_series(volume)):
        (folder / "xy"[number % 2] / f"{number * 7 % 12:02}.dcm").write_bytes(data)
    split = as_series(volume, series="1.2.4", rescale=True)
    (folder / "half.zip").write_bytes(zipped({f"{i:02}": split[i] for i in range(7)}))
    for number in range(7, 12):
        (folder / "half" / f"{number:02}").write_bytes(split[number])
    return folder


def by_volume(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each volume, in order."""
    key = lambda row: row["scan"] or row["sample_id"].partition("#")[0]  # noqa: E731
    groups = itertools.groupby(sorted(rows, key=lambda row: (key(row), row["slice_index"])), key=key)
    return {name: list(group) for name, group in groups}


def test_index_score_and_training_see_the_same_volume(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    manifest = index_sources([str(source)], CONFIG, key=KEY, on_notice=said.append)
    assert not any("series" in text for text in said)
    volumes = [rows for rows in by_volume(manifest.to_pylist()).values() if len(rows) > 1]
    assert len(volumes) == 4
    for rows in volumes:
        for name in ("slice_index", "empty", "window_of"):
            assert [row[name] for row in rows] == [row[name] for row in volumes[0]]
        assert abs(rows[0]["window_high"] - volumes[0][0]["window_high"]) < 1
        assert [row["phash"] is None for row in rows] == [row["empty"] for row in rows]

    request = ReadRequest(preprocess=CONFIG.data.preprocess, key=KEY.secret)
    read = {sample.sample_id: sample for sample in read_samples(source, request)}
    stored = materialise_planes(manifest, CONFIG.data.preprocess, LimitsConfig())
    blocks = [ray.get(ref)["plane"].to_pylist() for ref in stored.blocks.refs]
    for row in manifest.to_pylist():
        sample, (block, index) = read[row["sample_id"]], stored.locations[row["sample_id"]]
        assert {name: getattr(sample, name) for name in COLUMNS} == {name: row[name] for name in COLUMNS}
        assert sample.plane is not None
        assert blocks[block][index] == sample.plane.tobytes()

    model = str(bundle.folder)
    notices: list[str] = []
    score_files(model, [str(source)], str(tmp_path / "s"), on_notice=notices.append)
    found = {row["sample_id"]: row for row in scores(tmp_path / "s")}
    assert found.keys() == read.keys()
    for row in manifest.to_pylist():
        assert {n: found[row["sample_id"]][n] for n in COLUMNS} == {n: row[n] for n in COLUMNS}
    for one, other in zip(*[by_volume(list(found.values())).values()] * 2, strict=True):
        assert [row["probability"] for row in one] == [row["probability"] for row in other]
    probabilities = [[row["probability"] for row in rows] for rows in by_volume(list(found.values())).values()]
    longest = [p for p in probabilities if len(p) > 1]
    assert np.ptp(np.array(longest), axis=0).max() < 0.02


def test_a_manifest_with_other_windows_is_refused(source: Path) -> None:
    manifest = index_sources([str(source)], CONFIG, key=KEY)
    other = CONFIG.data.preprocess.model_copy(update={"window": (1.0, 99.0)})
    with pytest.raises(ManifestError, match="from volume, percentiles 0.5 and 99.5, but these are wanted: volume, p"):
        materialise_planes(manifest, other, LimitsConfig())
    by_file = CONFIG.data.preprocess.model_copy(update={"window_source": "file"})
    assert materialise_planes(manifest, by_file, LimitsConfig()).locations


def test_index_says_what_is_odd_about_series(volume: np.ndarray, tmp_path: Path) -> None:
    files = as_series(volume)
    for number, data in enumerate(files):
        if number != 5:
            (tmp_path / f"{number:02}").write_bytes(data)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "03").write_bytes(files[3])
    (tmp_path / "scout").write_bytes(localizer(series="1.2.3"))
    said: list[str] = []
    manifest = index_sources([str(tmp_path)], CONFIG, key=KEY, on_notice=said.append)
    series = [text for text in said if " series " in text]
    assert len(series) == 3
    assert "1 of 1 series have gaps: about 1 slice(s) are missing" in series[0]
    assert "contain 1 slice(s) again" in series[1]
    assert "several orientations or sizes: 2 parts" in series[2]
    assert all("'00'" in text for text in series)
    rows = {row["sample_id"]: row for row in manifest.to_pylist()}
    assert rows["again/03"]["slice_index"] == rows["03"]["slice_index"] == 3
    assert rows["scout"]["window_of"] == "slice"


def test_a_series_that_was_scored_in_part_keeps_its_window(
    source: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing of a job is windowed as the rest was, and no row comes twice."""
    out, model = tmp_path / "s", str(bundle.folder)
    monkeypatch.setattr(blocks, "MIN_BLOCK_ROWS", 5)
    score_files(model, [str(source)], str(out))
    rows = scores(out)
    parts = sorted(out.glob("part-*"))
    assert len(parts) > 1  # no series is cut
    for part in parts[::2]:
        part.unlink()
    (out / "_SUCCESS.json").unlink()
    before = {part.name for part in out.glob("part-*")}
    score_files(model, [str(source)], str(out))
    assert scores(out) == rows
    assert {part.name for part in parts} == {part.name for part in out.glob("part-*")} > before


def test_a_subset_is_windowed_by_the_files_at_hand(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    some = tmp_path / "some"
    shutil.copytree(source / "x", some)
    score_files(str(bundle.folder), [str(some)], str(tmp_path / "s"))
    rows = scores(tmp_path / "s")
    assert len(rows) == 6
    assert len({row["window_high"] for row in rows}) == 1
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in source.rglob("*.dcm"):
            archive.write(path, path.name if path.parent == source else f"{path.parent.name}/{path.name}")
    score_files(str(bundle.folder), [str(tmp_path / "all.zip")], str(tmp_path / "z"))
    table = pa.Table.from_pylist(scores(tmp_path / "z"))
    assert pc.count_distinct(table["window_high"]).as_py() == 1
