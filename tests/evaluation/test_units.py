"""Evaluations of scans and patients, without Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import brainscale as bs
from brainscale.dataset.columns import replace_column
from brainscale.errors import ManifestError
from brainscale.evaluation.comparison import compare_runs
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.units import EvaluatedUnits, drop_threshold_metrics, evaluation_name, require_patients
from brainscale.models.bundle import MODEL_JSON, Bundle, ModelInfo, OperatingPoint, write_model_info
from brainscale.stats.estimate import estimates_of
from brainscale.stats.metrics import METRIC_NAMES, measure
from tests.support.evaluating import make_run, predict_without_ray
from tests.support.pages import random_samples
from tests.support.scoring import made_up_bundle
from tests.support.tables import manifest, predictions


def info_with(**points: OperatingPoint) -> ModelInfo:
    """A model with these operating points besides that of slices."""
    info = made_up_bundle().info
    return info.model_copy(update={"operating_points": {**info.operating_points, **points}})


def volumes(slices: list[list[float]], labels: list[int | None], **columns: list[object]) -> tuple[pa.Table, pa.Table]:
    """Rows of a manifest and their predictions: volumes with these probabilities, each of one label."""
    names = [(scan, f"v{scan}#{i}") for scan, values in enumerate(slices) for i in range(len(values))]
    rows = manifest([labels[scan] for scan, _ in names], sample_id=[name for _, name in names], **columns)
    return rows, predictions(rows, np.concatenate(slices))


def test_scans_are_evaluated_at_their_own_aggregation_and_threshold() -> None:
    rows, predicted = volumes([[0.9, 0.1], [0.4, 0.6], [0.2, 0.4], [0.8, 0.8]], [1, 0, 0, None])
    point = OperatingPoint(threshold=0.5, threshold_source="", aggregation="mean")
    units = EvaluatedUnits.of(predicted, rows, "scan", info_with(scan=point))
    assert units.no_threshold is None
    assert len(units.table) == 4
    assert units.samples.labels.tolist() == [1, 0, 0]
    assert units.samples.tumour_probability == pytest.approx([0.5, 0.5, 0.3], abs=1e-6)
    assert units.labelled["sample_id"].to_pylist() == ["v0#0", "v1#1", "v2#1"]  # pictures of the highest slices
    by_scan = {row["scan"]: row for row in units.table.to_pylist()}
    assert (by_scan["v0"]["label"], by_scan["v3"]["label"]) == ("tumour", None)
    assert units.contain(["v1#0", "v3#0"]).tolist() == [False, True, False]


def test_a_unit_has_a_value_of_a_column_where_its_slices_agree() -> None:
    rows, predicted = volumes([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], [1, 0, 0])
    units = EvaluatedUnits.of(predicted, rows, "scan", info_with())
    values = ["A", "A", "A", "B", None, "B"]
    assert units.column(zip(rows["sample_id"].to_pylist(), values, strict=True)) == ["A", None, "B"]


def test_patients_that_are_not_known_are_left_out_and_none_at_all_is_an_error() -> None:
    rows, predicted = volumes([[0.5, 0.5], [0.25]], [1, 0], patient=["p", "p", None])
    units = EvaluatedUnits.of(predicted, rows, "patient", info_with())
    assert (units.table["patient"].to_pylist(), units.without_unit) == (["p"], 1)
    assert units.no_threshold is not None
    require_patients(rows, "patient")
    with pytest.raises(ManifestError, match="no sample has a known patient"):
        require_patients(rows.slice(2), "patient")
    require_patients(rows.slice(2), "scan")


def test_without_a_threshold_only_metrics_that_need_none_have_a_value() -> None:
    metrics = measure(random_samples())
    dropped = estimates_of(drop_threshold_metrics(metrics, "because"))
    with_value = {name for name, estimate in dropped.items() if estimate.value is not None}
    assert with_value == {
        *("auroc", "average_precision", "brier", "log_loss", "ece", "calibration_slope", "calibration_intercept")
    }
    assert {dropped[name].reason for name in set(METRIC_NAMES) - with_value} == {"because"}
    assert drop_threshold_metrics(metrics, None) is metrics
    assert evaluation_name("test", "slice") == "test"
    assert evaluation_name("test", "patient") == "test-patient"


def in_scans(run: Path) -> None:
    """Put the images of a run into scans of three of one class."""
    table = pq.read_table(run / "manifest.parquet")
    labels, numbers = table["label"].to_pylist(), {"tumour": 0, "no_tumour": 0}
    scans = []
    for split, label in zip(table["split"].to_pylist(), labels, strict=True):
        scans.append(f"{split}-{label}-{numbers[label] // 3}")
        numbers[label] += 1
    pq.write_table(replace_column(table, "scan", pa.array(scans)), run / "manifest.parquet")


def test_a_run_is_evaluated_and_compared_by_scan(
    bundle: Bundle, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First without an operating point of scans, then, as another model, with one."""
    predict_without_ray(monkeypatch)
    run, notices = make_run(tmp_path / "run", bundle, scans), list[str]()
    in_scans(run)
    bare = evaluate_model(str(run), unit="scan", on_notice=notices.append)
    assert (bare.path, bare.unit, bare.aggregation) == (str(run / "evaluation" / "test-scan"), "scan", "top_mean")
    assert any(text.startswith("Note: no metric that needs a threshold has a value") for text in notices)
    metrics = estimates_of(bare.metrics)
    assert metrics["auroc"].value is not None
    assert metrics["sensitivity"].reason == metrics["accuracy"].reason
    assert metrics["sensitivity"].value is None
    assert bare.unit_table is not None
    assert bare.unit_table["prediction"].null_count == len(bare.unit_table) == bare.units
    page = (run / "evaluation" / "test-scan" / "report.html").read_text(encoding="utf-8")
    assert "gives scores but no predictions: the model has no operating point for scans" in page
    assert compare_runs([str(run)], unit="scan").pairs is None
    repeated = bs.evaluate(run, unit="scan")
    assert repeated.unit_table is not None
    assert repeated.unit_table.equals(bare.unit_table)

    facts = json.loads((run / "model" / MODEL_JSON).read_text())
    hashes = ("weights_sha256", "onnx_sha256", "model_sha256", "format")
    point = {"threshold": 0.5, "threshold_source": "Youden's index", "aggregation": "maximum", "validation_units": 4}
    points = {**facts["operating_points"], "scan": point}
    known = {name: value for name, value in facts.items() if name not in hashes}
    write_model_info(run / "model", {**known, "operating_points": points})
    other = evaluate_model(str(run), str(tmp_path / "out"), unit="scan", by=["format"])
    assert other.unit_table is not None
    right = pc.sum(pc.equal(other.unit_table["prediction"], other.unit_table["label"])).as_py()
    accuracy = estimates_of(other.metrics)["accuracy"]
    assert (accuracy.value, accuracy.n) == (right / other.units, other.units)
    assert pq.read_table(tmp_path / "out" / "scans.parquet").equals(other.unit_table)
    assert (tmp_path / "out" / "plots" / "confusion.png").is_file()
    assert not (run / "evaluation" / "test-scan" / "plots" / "confusion.png").exists()
    with pytest.raises(ManifestError, match="different units"):
        evaluate_model(str(run))
        compare_runs([str(run), str(tmp_path / "out")])
    comparison = compare_runs([str(run), str(tmp_path / "out")], unit="scan")
    assert comparison.table["unit"].to_pylist() == ["scan", "scan"]
