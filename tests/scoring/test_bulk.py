"""Rows of predictions, without Ray, and which jobs need it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from brainscale.models.engines import EngineOptions
from brainscale.reading.sample import COLUMNS
from brainscale.reading.small_jobs import MAX_FILES
from brainscale.reading.sources import SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.scoring import bulk
from brainscale.scoring.bulk import FEW_CPUS
from brainscale.scoring.predictions import ScoringJob, make_predictions
from brainscale.scoring.rows import MAX_LOCAL_ROWS
from brainscale.scoring.spool import SpooledFiles
from tests.support.scoring import made_up_bundle


def block(errors: list[str | None]) -> pa.Table:
    rows = [
        dict.fromkeys(COLUMNS.names) | {"sample_id": f"{i}", "uri": f"/{i}", "error_code": e, "error": e}
        for i, e in enumerate(errors)
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def test_each_probability_stays_beside_its_sample() -> None:
    present = np.array([True, False, True, True])
    known = np.array([[0.9, 0.1], [np.nan, np.nan], [0.5, 0.5]], np.float32)
    table = make_predictions(block([None, "corrupt", None, None]), present, known, 0.5, ["no", "yes"], "w")
    assert table.schema.names == PREDICTIONS.names
    assert table.select(PREDICTIONS.names).schema == PREDICTIONS
    assert table["prediction"].to_pylist() == ["no", None, None, "yes"]
    assert table["error_code"].to_pylist() == [None, "corrupt", "not_finite", None]
    assert table["probability"].to_pylist()[1:] == [None, None, 0.5]
    assert table["probabilities"].to_pylist()[3] == [0.5, 0.5]
    assert set(table["model"].to_pylist()) == {"w"}


def test_the_threshold_decides_tumour_or_none_of_three_classes_too() -> None:
    known = np.array([[0.4, 0.35, 0.25], [0.2, 0.3, 0.5]], np.float32)
    table = make_predictions(block([None, None]), np.ones(2, bool), known, 0.5, ["none", "a", "b"], "w")
    assert table["prediction"].to_pylist() == ["a", "b"]
    strict = make_predictions(block([None, None]), np.ones(2, bool), known, 0.7, ["none", "a", "b"], "w")
    assert strict["prediction"].to_pylist() == ["none", "b"]
    assert np.allclose(table["probability"].to_pylist(), [0.6, 0.8])


def test_nothing_but_errors() -> None:
    known = np.empty((0, 2), np.float32)
    table = make_predictions(block(["corrupt"]), np.zeros(1, bool), known, 0.5, ["no", "yes"], "w")
    assert table["error_code"].to_pylist() == ["corrupt"]
    assert table["probability"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("rows", "cpus", "gpu", "settings", "expected"),
    [
        (MAX_FILES, 64, True, {}, False),  # over before Ray would be up
        (MAX_FILES + 1, 64, True, {}, True),
        (MAX_FILES + 1, 64, True, {"engine": EngineOptions(name="onnx")}, False),  # which no GPU runs
        (MAX_FILES + 1, 64, True, {"engine": EngineOptions(precision="int8")}, False),
        (MAX_FILES + 1, 64, False, {}, False),
        (MAX_LOCAL_ROWS, 64, False, {}, False),
        (MAX_LOCAL_ROWS + 1, FEW_CPUS + 1, False, {}, True),
        (MAX_LOCAL_ROWS + 1, FEW_CPUS, False, {}, False),
        (1, 2, False, {"workers": 1}, True),
        (1, 2, False, {"engine": EngineOptions(name="torch")}, True),
    ],
)
def test_a_job_runs_on_ray_where_that_is_faster_or_asked_for(
    rows: int, cpus: int, gpu: bool, settings: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "has_gpu", lambda: gpu)
    monkeypatch.setattr(bulk, "is_ray_near", lambda: False)
    monkeypatch.setattr(bulk, "count_cpus", lambda: cpus)
    files = SpooledFiles(SourceFile(uri=f"/{n}.png", sample_id=f"{n}.png", nbytes=1000) for n in range(rows))
    job = ScoringJob(bundle=made_up_bundle(), threshold=0.5, **settings)
    assert bulk.needs_ray(job, files, None) is expected
