"""What an evaluation says of its samples, before and after the model has seen them; no Ray."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.dataset.groups import DISTANCE
from brainscale.dataset.manifest import read_manifest
from brainscale.errors import ManifestError
from brainscale.evaluation import evaluator, outputs
from brainscale.evaluation.look_log import LOG, log_look
from brainscale.evaluation.report.page import EXCLUDED
from brainscale.schema import MANIFEST
from tests.support.tables import digest, manifest, predictions

SPLIT = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
RUN = manifest(np.arange(12) % 2, split=SPLIT)


def asked(**more: object) -> evaluator.EvaluationRequest:
    least = {"data": None, "split": "test", "engine": "auto", "workers": 1, "prevalence": None, "by": ()}
    return evaluator.EvaluationRequest(**(least | {"training_manifest": "auto", "on_notice": print} | more))  # type: ignore[arg-type]


def test_a_source_has_the_runs_sides_where_it_is_the_runs_own() -> None:
    bare = manifest(np.arange(12) % 2)
    assert evaluator.with_splits_of_run(bare, RUN, None)["split"].to_pylist() == SPLIT


def test_an_outside_set_is_not_judged_by_the_test_images_it_has_copied() -> None:
    """One of its files is in the run's test part: all are evaluated, unless that part is asked for."""
    outside = manifest([0, 1, 0, 1], sha256=[digest(8), *(digest(f"new {i}") for i in range(3))])
    side, rows = evaluator.choose_rows(evaluator.with_splits_of_run(outside, RUN, None), None)
    assert (side, len(rows)) == ("all", 4)
    _, rows = evaluator.choose_rows(evaluator.with_splits_of_run(outside, RUN, "test"), "test")
    assert rows["sample_id"].to_pylist() == ["0000.png"]


def test_a_look_at_all_sides_is_a_look_at_the_test_part(tmp_path: Path) -> None:
    def seen(side: str) -> list[str]:
        return evaluator._sealed(evaluator.choose_rows(RUN, side)[1])

    assert seen("test") == seen("all") == [digest(i) for i in range(8, 12)]
    assert seen("train") == seen("val") == []
    assert len(evaluator._sealed(manifest([0, 1, 0]))) == 3  # outside data
    assert log_look(tmp_path, seen("test"), tmp_path / "a") == 1
    assert log_look(tmp_path, seen("all")[::-1], tmp_path / "b") == 2
    assert log_look(tmp_path, [digest("other")], tmp_path / "c") == 1
    assert [json.loads(line)["out"] for line in (tmp_path / LOG).read_text().splitlines()] == ["a", "b", "c"]


def test_what_the_model_knows_is_found_on_any_side(tmp_path: Path) -> None:
    """By bytes, by picture and by patient; also in an outside set that has a split of its own."""
    near = f"{0xF0F0F0F0F0F0F0F0:016x}", f"{0xF0F0F0F0F0F0F0F0 ^ 0b1011:016x}", f"{0x0F0F0F0F0F0F0F0F:016x}"
    own = manifest(np.arange(12) % 2, split=SPLIT, phash=[near[0]] + [None] * 11, patient=["p"] * 2 + [None] * 10)
    pq.write_table(own, tmp_path / "manifest.parquet")
    outside = manifest(
        [0, 1, 0, 1, 0],
        sha256=[digest(6), *(digest(f"new {i}") for i in range(4))],
        phash=[None, near[1], near[2], None, None],
        patient=[None, None, None, "p", "q"],
        split=["train", "train", "train", "val", "test"],
    )
    found = evaluator._leaked(tmp_path, asked(data="outside.parquet", split="all"), outside)
    assert found is not None
    ties = [(row["sample_id"], row["kind"], row["distance"]) for row in found.to_pylist()]
    assert ties == [("0000.png", "bytes", 0), ("0001.png", "picture", 3), ("0003.png", "patient", None)]
    assert DISTANCE >= 3
    of_test = evaluator._leaked(tmp_path, asked(), evaluator.choose_rows(own, "test")[1])
    assert of_test is not None
    assert len(of_test) == 0
    of_all = evaluator._leaked(tmp_path, asked(split="all"), own)
    assert of_all is not None
    assert len(of_all) == 8  # what was learnt from, and what chose
    assert evaluator._leaked(tmp_path / "no run", asked(data="x.parquet"), outside) is None


def test_a_run_is_known_by_its_models_folder_too(tmp_path: Path) -> None:
    """Else a look through the folder would not be counted."""
    bundle: Any = SimpleNamespace(folder=tmp_path / "run" / "model")
    bundle.folder.mkdir(parents=True)
    assert evaluator._run_of(bundle) is None
    for name in ("config.yaml", "manifest.parquet"):
        (tmp_path / "run" / name).touch()
    assert evaluator._run_of(bundle) == tmp_path / "run"


@pytest.mark.parametrize(
    ("data", "name"),
    [("/a/b.parquet", "b.parquet"), ("s3://c/site 1/?region=x&endpoint_override=y", "site 1"), (None, None)],
)
def test_data_are_called_by_the_end_of_their_place(data: str | None, name: str | None) -> None:
    assert evaluator._name(data) == name


def flow(table: pa.Table, side: str) -> dict[str, int]:
    _, rows = evaluator.choose_rows(table, side)
    done = outputs.EvaluatedModel(
        bundle=None,  # type: ignore[arg-type]
        run=None,
        manifest=table,
        rows=rows,
        predictions=predictions(rows, np.linspace(0, 1, len(rows))),
        labels={},
    )
    return outputs._flow(done)


@pytest.mark.parametrize("side", ["test", "all"])
def test_what_was_left_out_adds_up(side: str) -> None:
    """Sides, errors, empty slices, samples of no side and of no label: each sample once, and one reason each."""
    table = manifest(
        [*(np.arange(12) % 2).tolist(), 1, None, 0, 1, None],
        split=[*SPLIT, "test", "test", None, None, None],
        error_code=[None] * 12 + ["corrupt", None, None, "corrupt", None],
        empty=[None] * 14 + [True, None, None],
    )
    found = flow(table, side)
    reasons = {name.removeprefix(EXCLUDED): n for name, n in found.items() if name.startswith(EXCLUDED)}
    assert sum(reasons.values()) + found["samples used"] == found["samples in them"] == 17
    expected = {
        "test": {"train part": 6, "val part": 2, "empty slice": 1, "corrupt": 2, "no split": 1, "no label": 1},
        "all": {"corrupt": 2, "no label": 2},
    }
    assert reasons == expected[side]


def test_where_nothing_could_be_read_nothing_is_written(tmp_path: Path) -> None:
    table = manifest([0, 1, 1], error_code=["corrupt"] * 3)
    done = outputs.EvaluatedModel(
        bundle=SimpleNamespace(info=None),  # type: ignore[arg-type]
        run=None,
        manifest=table,
        rows=table,
        predictions=predictions(table, np.zeros(3)),
        labels={},
    )
    with pytest.raises(ManifestError, match="no labelled sample could be read: `brainscale index` says why"):
        outputs.write_outputs(tmp_path, done, {})
    assert not list(tmp_path.iterdir())


def test_columns_of_ones_own_stay(tmp_path: Path) -> None:
    """A site or a scanner, for `evaluate --by`."""
    table = RUN.append_column("site", pa.array(["A", "B"] * 6))
    pq.write_table(table, tmp_path / "m.parquet")
    found = read_manifest(tmp_path / "m.parquet")
    assert found.column_names == [*MANIFEST.names, "site"]
    assert found["site"].to_pylist() == ["A", "B"] * 6


def test_doubt_is_a_small_lead_where_there_is_no_threshold() -> None:
    """A glioma surely called a meningioma is a sure error, though no score is near a threshold."""
    chances = [[0.01, 0.98, 0.01], [0.0, 0.51, 0.49], [0.4, 0.3, 0.3]]
    used = pa.table({"probabilities": pa.array(chances)})
    leads = outputs._leads(None, used)  # type: ignore[arg-type]
    assert leads == pytest.approx([0.97, 0.02, 0.1])
