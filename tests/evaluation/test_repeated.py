"""An evaluation repeated with nothing new is read and not computed; whatever is new is computed. No Ray."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.dataset.manifest import read_manifest, write_manifest
from brainscale.errors import BundleError, StorageError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.look_log import LOG, read_looks
from brainscale.evaluation.repeated import find_repeated, hash_contents
from brainscale.models.bundle import EDITED_KEY, Bundle
from brainscale.storage.local import read_success
from tests.support.evaluating import edit_threshold, make_run, predict_without_ray
from tests.support.runs import Invoke, succeed
from tests.support.tables import manifest

COMPUTED = "it was read, not computed again"


@pytest.fixture(scope="module")
def finished_run(bundle: Bundle, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("finished") / "run", bundle, phantoms)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of samples of each evaluation that was computed."""
    monkeypatch.setattr("brainscale.evaluation.drawing.draw_plots", lambda *arguments, **options: [])
    return predict_without_ray(monkeypatch)


def test_the_same_again_is_read(run: Path, evaluated: list[int]) -> None:
    notices: list[str] = []
    first = evaluate_model(str(run), engine="onnx", on_notice=notices.append)
    marks = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = evaluate_model(str(run), engine="torch", workers=7, on_notice=notices.append)
    assert len(evaluated) == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == marks
    assert again.to_json() == first.to_json()
    assert again.metrics.equals(first.metrics)
    assert again.predictions.equals(first.predictions)
    assert [text for text in notices if COMPUTED in text] == [
        f"{run}/evaluation/test already holds this evaluation of the same model and samples: it was read, not computed "
        "again, and is no new look at the test set"
    ]
    assert len(read_looks(run)[0]) == first.looks == 1


@pytest.mark.parametrize(
    "change", [{"prevalence": 0.1}, {"by": ("format",)}, {"show_burned_in": True}, {"split": "all"}]
)
def test_another_option_is_computed_and_is_no_new_look(
    run: Path, evaluated: list[int], tmp_path: Path, change: dict[str, Any]
) -> None:
    out = str(tmp_path / "out")
    evaluate_model(str(run), out)
    other = evaluate_model(str(run), out, **change)
    assert len(evaluated) == 2
    assert other.looks == len(read_looks(run)[0]) == 1
    assert find_repeated(str(run), out) is None
    assert find_repeated(str(run), out, **change) is not None


def test_tables_alone_are_no_evaluation_with_a_report(run: Path, evaluated: list[int]) -> None:
    tables = evaluate_model(str(run), engine="onnx", report=False)
    folder = run / "evaluation" / "test"
    assert not list(folder.glob("*.html"))
    assert evaluate_model(str(run), engine="onnx", report=False).metrics.equals(tables.metrics)
    assert len(evaluated) == 1
    whole = evaluate_model(str(run), engine="onnx")
    assert len(evaluated) == 2
    assert (folder / "report.html").is_file()
    assert whole.metrics.equals(tables.metrics)


def test_another_threshold_is_a_new_look_and_stands_in_every_output(run: Path, evaluated: list[int]) -> None:
    first = evaluate_model(str(run))
    edit_threshold(run / "model", 0.25)
    with pytest.raises(BundleError, match="was edited after it was written"):
        find_repeated(str(run))
    notices: list[str] = []
    second = evaluate_model(str(run), by=["format"], allow_edited_model=True, on_notice=notices.append)
    assert (len(evaluated), first.looks, second.looks) == (2, 1, 2)
    assert f"Note: {run / 'model'}: model.json was edited after it was written." in notices
    folder = Path(second.path)
    for name in ("predictions.parquet", "metrics.parquet", "subgroups.parquet", "shared.parquet"):
        metadata = pq.read_schema(folder / name).metadata
        assert metadata.get(EDITED_KEY.encode()) or metadata[b"model_edited"] == b"True", name
    assert second.model_edited
    assert (read_success(folder) or {})["model_edited"] is True
    assert "model.json was edited after it was written" in (folder / "report.html").read_text()
    assert "model.json was edited after it was written" in (run / "model" / "README.md").read_text()


def test_changed_samples_and_damaged_outputs_are_computed(run: Path, evaluated: list[int], tmp_path: Path) -> None:
    data, out = tmp_path / "m.parquet", str(tmp_path / "out")
    shutil.copy(run / "manifest.parquet", data)

    def repeated() -> bool:
        return find_repeated(str(run), out, data=str(data), split="test") is not None

    evaluate_model(str(run), out, data=str(data), split="test")
    assert repeated()
    table = read_manifest(data)
    moved = pa.array([f"/elsewhere{uri}" for uri in table["uri"].to_pylist()])
    write_manifest(table.set_column(table.schema.get_field_index("uri"), "uri", moved), data)
    assert repeated()
    other = pa.array(["tumour"] * len(table))
    write_manifest(table.set_column(table.schema.get_field_index("label"), "label", other), data)
    assert not repeated()
    write_manifest(table, data)
    assert repeated()
    (Path(out) / "metrics.parquet").write_bytes(b"damaged")
    assert not repeated()
    evaluate_model(str(run), out, data=str(data), split="test")
    assert repeated()
    (Path(out) / "report.html").unlink()
    assert not repeated()


def test_what_is_read_needs_no_ray(
    run: Path, evaluated: list[int], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_model(str(run))

    def refuse(*arguments: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("brainscale.cluster.session.session", refuse)
    done = succeed(invoke("evaluate", run, "--json"))
    assert json.loads(done.stdout) == first.to_json()
    assert COMPUTED in done.stderr
    assert invoke("evaluate", run, "--prevalence", "0.1", "--workers", "2").exit_code == 1  # Ray was started
    assert "no split named 'tset'" in invoke("evaluate", run, "--split", "tset").stderr


def test_a_run_that_cannot_be_written_is_evaluated_elsewhere(
    run: Path, evaluated: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here root may write everywhere, so the file system refuses by its own words; see also test_look_log.py."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    opened: Callable[..., Any] = Path.open

    def refuse(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.is_relative_to(run) and set(mode) & set("wax+"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    notices: list[str] = []
    evaluation = evaluate_model(str(run), str(tmp_path / "out"), on_notice=notices.append)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert evaluation.looks == 1
    assert evaluation.looks_note == "the run cannot be written (Permission denied)"
    assert sum("this look at its test set is not counted there" in text for text in notices) == 1
    assert sum("the model card stays as it was" in text for text in notices) == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The run itself does not count this one: the run cannot be written (Permission denied)." in page
    again = find_repeated(str(run), str(tmp_path / "out"))
    assert again is not None
    assert again.looks_note == evaluation.looks_note


def test_a_damaged_log_costs_a_note(run: Path, evaluated: list[int]) -> None:
    (run / LOG).write_text('{"time": "2026-01-')
    notices: list[str] = []
    assert evaluate_model(str(run), on_notice=notices.append).looks == 1
    assert "Note: run/test_looks.jsonl: line 1 is damaged and not counted as a look at the test set." in notices


def test_contents_do_not_depend_on_places_keys_or_the_form_of_the_table(tmp_path: Path) -> None:
    patients = ["p", "q", None, "p", "r", None]
    table = manifest([0, 1, 0, 1, None, 1], patient=patients, width=[1, None, 3, 4, None, 6])
    expected = hash_contents(table)
    keys = {"p": "x9", "q": "a1", "r": "m3", None: None}
    other = manifest(
        [0, 1, 0, 1, None, 1], patient=[keys[p] for p in patients], width=[1, None, 3, 4, None, 6],
        uri=[f"s3://b/{i}" for i in range(6)],
    )  # fmt: skip
    assert hash_contents(other) == expected
    write_manifest(table, tmp_path / "m.parquet")
    assert hash_contents(read_manifest(tmp_path / "m.parquet")) == expected
    assert hash_contents(pa.concat_tables([table.slice(0, 2), table.slice(2)])) == expected
    joined = pa.concat_tables([table, table]).slice(3, 6).take(np.array([3, 4, 5, 0, 1, 2]))
    assert hash_contents(joined) == expected
    assert hash_contents(table.filter(np.ones(6, bool))) == expected
    for column, values in (
        ("patient", ["p", "q", None, "q", "r", None]),
        ("width", [1, 3, None, 4, None, 6]),
        ("label", ["tumour"] * 6),
    ):
        place = table.schema.get_field_index(column)
        changed = table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))
        assert hash_contents(changed) != expected, column
    assert hash_contents(table.append_column("site", pa.array(list("aabbcc")))) != expected


def test_a_store_that_refuses_loses_no_evaluation_that_is_elsewhere(
    run: Path, evaluated: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is a local copy of one in a store that takes no writes."""

    def refuse(workspace: object) -> None:
        raise StorageError("refused", final=True)

    monkeypatch.setattr("brainscale.storage.workspace.Workspace.push", refuse)
    notices: list[str] = []
    evaluation = evaluate_model(str(run), str(tmp_path / "out"), on_notice=notices.append)
    assert (evaluation.looks, evaluation.looks_note) == (
        1,
        "the run cannot be written (its object store does not accept it)",
    )
    assert not (run / LOG).exists()
    assert "Note: the object store of the run accepts no changes; the run stays as it was." in notices
    with pytest.raises(StorageError):
        evaluate_model(str(run))
