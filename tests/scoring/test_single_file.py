"""Scores in one file: the rows of a folder, refused where something else is, resumed after a stop."""

import csv
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import brainscale as bs
from brainscale.errors import OutputError, UsageError
from brainscale.models.bundle import Bundle
from brainscale.scoring import single_file
from brainscale.scoring.single_file import names_file, score_to, spread_probabilities
from tests.support.images import write_image
from tests.support.runs import Invoke, scores


@pytest.fixture(name="images")
def write_images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        write_image(folder / f"{number}, scan.png", seed=number)
    (folder / "notes.txt").write_text("no image")
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_holds_the_rows_of_a_folder_and_nothing_is_left_beside_it(
    invoke: Invoke, bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for target in (out / "scores.parquet", out / "scores.csv", tmp_path / "folder"):
        result = invoke("score", bundle.folder, images, "--out", target)
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["scores.csv", "scores.parquet"]
    expected = scores(tmp_path / "folder")
    table = pq.read_table(out / "scores.parquet")
    assert table.to_pylist() == expected
    assert table.schema.metadata[b"brainscale.format"] == b"predictions 3"
    rows = read_csv(out / "scores.csv")
    assert [row["sample_id"] for row in rows] == [row["sample_id"] for row in expected]
    for row, same in zip(rows, expected, strict=True):
        assert (row["prediction"] or None) == same["prediction"]
        cells = [row[f"probability_{name}"] for name in bundle.info.classes]
        assert [float(cell) for cell in cells if cell] == pytest.approx(same["probabilities"] or [])
        assert "probabilities" not in row


def test_a_file_that_is_there_is_kept(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    text, model, sources = tmp_path / "precious.csv", str(bundle.folder), [str(images)]
    text.write_text("mine")
    with pytest.raises(OutputError, match="precious.csv exists, and a .csv file does not say what made it"):
        score_to(model, sources, str(text))
    assert text.read_text() == "mine"
    assert score_to(model, sources, str(text), overwrite=True).rows == 4
    assert text.read_text().startswith('"sample_id"')

    table = tmp_path / "scores.parquet"
    first = score_to(model, sources, str(table))
    before = table.read_bytes()
    again = score_to(model, sources, str(table))
    assert (again.progress, again.rows, again.errors) == (None, first.rows, first.errors)
    assert table.read_bytes() == before
    with pytest.raises(
        OutputError, match="not the finished work of this job"
    ):  # another threshold, so other predictions
        score_to(model, sources, str(table), threshold=0.9)
    write_image(images / "new.png")
    with pytest.raises(OutputError, match="not the finished work of this job"):
        score_to(model, sources, str(table))
    assert bs.score(bundle.folder, images, table, overwrite=True).rows == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "precious.csv", "scores.parquet"]


def test_a_stopped_job_is_resumed_from_its_parts(
    bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(single_file, "write_file", stop)
        with pytest.raises(KeyboardInterrupt):
            score_to(str(bundle.folder), [str(images)], str(out))
    (parts,) = tmp_path.glob(".scores.csv.*.parts")
    assert not out.exists()
    os.remove(images / "notes.txt")  # noqa: PTH107 - gone since
    resumed = score_to(str(bundle.folder), [str(images)], str(out))
    assert (resumed.rows, resumed.errors) == (3, {})
    assert not parts.exists()


def test_a_table_of_scans_lies_beside_the_file(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    result = score_to(str(bundle.folder), [str(images)], str(tmp_path / "a.csv"), unit="scan")
    assert result.units_file == str(tmp_path / "a.scans.csv")
    assert len(read_csv(tmp_path / "a.scans.csv")) == result.units
    assert sorted(path.name for path in tmp_path.glob("[!i]*")) == ["a.csv", "a.scans.csv"]
    (tmp_path / "a.csv").unlink()
    with pytest.raises(OutputError, match=r"a\.scans\.csv exists"):
        score_to(str(bundle.folder), [str(images)], str(tmp_path / "a.csv"), unit="scan")


def test_two_tables_are_finished_together_and_resumed_between_them(
    bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, job = tmp_path / "a.parquet", (str(bundle.folder), [str(images)], str(tmp_path / "a.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(single_file.FileJob, "encode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_to(*job, unit="scan")
    assert (tmp_path / "a.scans.parquet").exists()
    assert not out.exists()
    resumed = score_to(*job, unit="scan")
    before = out.read_bytes()
    again = score_to(*job, unit="scan")
    assert again.progress is None
    assert (again.units, again.units_file) == (resumed.units, str(tmp_path / "a.scans.parquet"))
    assert out.read_bytes() == before


def test_too_many_rows_stay_in_their_folder(
    bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sources, out = str(bundle.folder), [str(images)], str(tmp_path / "scores.parquet")
    monkeypatch.setattr(single_file, "MAX_FILE_ROWS", 3)
    with pytest.raises(UsageError, match="4 files are too many for one file"):
        score_to(model, sources, out)
    monkeypatch.setattr(single_file, "fingerprint_sources", lambda *arguments: (1, "of one archive"))
    with pytest.raises(OutputError, match="4 rows are too many for one file"):
        score_to(model, sources, out)
    (parts,) = tmp_path.glob(".scores.parquet.*.parts")
    assert len(scores(parts)) == 4
    assert not Path(out).exists()


@pytest.mark.parametrize("name", ["scores.txt", "scores.json", "s3://bucket/scores.xlsx"])
def test_other_tables_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="to a file ending in .parquet or .csv"):
        names_file(name)


@pytest.mark.parametrize(
    ("out", "is_file"),
    [("a.csv", True), ("A.PARQUET", True), ("scores", False), ("scores.v2", False), ("a.csv/", False)],
)
def test_the_suffix_decides(out: str, is_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_file(out) is is_file
    (tmp_path / out).mkdir()
    assert names_file(out) is False
    assert names_file(f"s3://bucket/{out}?region=eu") is is_file


def test_options_of_a_folder_and_of_a_file_are_told_apart(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--overwrite is for a single file"):
        score_to(str(bundle.folder), [str(images)], str(tmp_path / "scores"), overwrite=True)
    with pytest.raises(UsageError, match="--update and --prune extend a folder"):
        score_to(str(bundle.folder), [str(images)], str(tmp_path / "scores.csv"), update=True)


def test_probabilities_become_columns_in_the_order_of_the_classes() -> None:
    table = pa.table({"a": [1, 2], "probabilities": [[0.25, 0.75], None], "b": [3, 4]})
    assert spread_probabilities(table, ["no", "yes"]).to_pydict() == {
        "a": [1, 2],
        "probability_no": [0.25, None],
        "probability_yes": [0.75, None],
        "b": [3, 4],
    }
