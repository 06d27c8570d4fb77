"""A study goes on from released models: the same figures, and nothing is trained again."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from brainscale.dataset.columns import replace_column
from brainscale.errors import OutputError
from brainscale.evaluation.study.arguments import MODELS_KIND
from brainscale.evaluation.study.budget import Estimator
from brainscale.evaluation.study.data_sets import released_ids
from brainscale.evaluation.study.measures import measure_studies
from brainscale.evaluation.study.pieces import RowPlan
from brainscale.evaluation.study.released_models import find_released, released_models, take_models
from brainscale.evaluation.study.runs import StudyPlan
from brainscale.hashing import file_sha256
from brainscale.schema import STUDY_MODELS
from brainscale.storage.tables import write_table
from tests.support.studies import DATA, FOLDS, complete, indexed, plan, study


def made(folder: Path, out: str, *, hide_ids: bool = False, n: int = 80) -> StudyPlan:
    data = {**DATA, "scans": {**DATA["scans"], "hide_ids": hide_ids}}
    return plan(study(folder, data=data), folder / out, indexed(n=n))


def release(folder: Path, computed: StudyPlan) -> str:
    path = folder / "models.parquet"
    write_table(released_models(computed), path, MODELS_KIND)
    return str(path)


def complete_all(planned: StudyPlan) -> list[RowPlan]:
    rows = [row for row in planned.rows if row.pieces]
    for piece in (piece for row in rows for piece in row.pieces):
        complete(piece, planned.out)
    return rows


@pytest.mark.parametrize("hide_ids", [False, True])
def test_a_study_goes_on_from_the_models_of_another_machine(tmp_path: Path, hide_ids: bool) -> None:
    computed = made(tmp_path, "here", hide_ids=hide_ids)
    complete_all(computed)
    elsewhere = made(tmp_path, "elsewhere", hide_ids=hide_ids)
    complete(elsewhere.rows[0].pieces[0], elsewhere.out)
    table_file = release(tmp_path, computed)
    assert take_models(table_file, elsewhere) == 3  # of four: one was complete
    assert take_models(table_file, elsewhere) == 0
    assert measure_studies(elsewhere).equals(measure_studies(computed))
    assert released_models(elsewhere).equals(released_models(computed))


def test_models_with_weights_that_are_not_here_are_taken_too(tmp_path: Path) -> None:
    """The study names the hash of the weights, so it knows a model that began with them."""
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    sections = {"weights": {"w": {"title": "W", "sha256": file_sha256(tmp_path / "w.safetensors")}}}
    rows = {"network": {"set": ["model.weights=$w"]}}
    file = study(tmp_path, {"table": {**FOLDS, "rows": rows}}, **sections)
    computed = plan(file.with_places({"w": str(tmp_path / "w.safetensors")}), tmp_path / "here")
    complete_all(computed)
    elsewhere = plan(file, tmp_path / "elsewhere")
    assert elsewhere.without_weights() == {"small/table/network": ["w"]}
    assert take_models(release(tmp_path, computed), elsewhere) == 2
    assert not elsewhere.without_weights()
    assert measure_studies(elsewhere).equals(measure_studies(computed))


def test_each_model_is_released_once_with_its_test_samples(tmp_path: Path) -> None:
    computed = made(tmp_path, "here")
    rows = complete_all(computed)
    table = released_models(computed)
    assert table.schema.equals(STUDY_MODELS)
    assert table["identity"].to_pylist() == [piece.identity for row in rows for piece in row.pieces]
    piece = rows[0].pieces[0]
    tested = piece.manifest.filter(pc.equal(piece.manifest["split"], "test"))
    assert table["sample_ids"][0].as_py() == sorted(tested["sample_id"].to_pylist())


def test_hidden_ids_are_in_no_released_model(tmp_path: Path) -> None:
    computed = made(tmp_path, "here", hide_ids=True)
    complete_all(computed)
    ids = set(computed.data["scans"].manifest["sample_id"].to_pylist())
    named = {name for row in released_models(computed)["sample_ids"].to_pylist() for name in row}
    assert len(named) == len(ids)
    assert not named & ids


def test_equal_files_have_names_of_their_own(tmp_path: Path) -> None:
    table = indexed(n=8).manifest
    table = replace_column(table, "sha256", pa.array(["a" * 64, "b" * 64] * 4, pa.string()))
    names = released_ids(table, hide_ids=True).to_pylist()
    assert sorted(names) == sorted(f"{x * 16}{n}" for x in "ab" for n in ("", "-2", "-3", "-4"))
    assert names == released_ids(table, hide_ids=True).to_pylist()


def test_a_dry_run_takes_nothing(tmp_path: Path) -> None:
    computed, other = made(tmp_path, "here"), made(tmp_path, "elsewhere")
    complete_all(computed)
    released = find_released(release(tmp_path, computed), other)
    assert len(released) == 4
    assert not other.done()
    counted = replace(other, released=frozenset(released))
    assert [(row.done, row.left, row.hours_left) for row in counted.budget()] == [(2, 0, 0), (2, 0, 0), (0, 0, 0)]
    assert not other.out.exists()


def test_what_took_how_long_elsewhere_says_nothing_of_this_machine(tmp_path: Path) -> None:
    computed, other = made(tmp_path, "here"), made(tmp_path, "elsewhere")
    complete_all(computed)
    take_models(release(tmp_path, computed), other)
    piece = other.rows[0].pieces[0]
    assert Estimator(computed.out, computed.rows, computed.done()).is_measured(piece)
    assert not Estimator(other.out, other.rows, other.done()).is_measured(piece)


def test_models_of_other_data_are_not_taken(tmp_path: Path) -> None:
    computed = made(tmp_path, "here")
    complete_all(computed)
    other = made(tmp_path, "other", n=40)
    assert take_models(release(tmp_path, computed), other) == 0
    assert not other.done()


@pytest.mark.parametrize("content", [None, b"no table"])
def test_a_table_that_cannot_be_read_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "models.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OutputError, match="models"):
        take_models(str(path), made(tmp_path, "here"))
