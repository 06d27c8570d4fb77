"""What validation decides, from predictions that are there already; no Ray."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import unit_thresholds
from brainscale.config.sections import OperatingConfig
from brainscale.stats.decisions import apply_temperature, predicted_classes
from brainscale.stats.units import LabelledUnits
from brainscale.training import operating_point
from tests.support.tables import CLASSES, manifest, predictions


@pytest.mark.parametrize("seed", range(20))
def test_a_target_reached_on_validation_is_reached_by_the_scores_that_are_written(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lowest score is a tumour's, and the threshold: in other digits than the engine's it might be missed."""
    draw = np.random.default_rng(seed)
    labels, scores = np.r_[1, np.arange(39) % 2], np.r_[0.01, draw.uniform(0.02, 1, 39)]
    rows = manifest(labels, split=["val"] * 40)
    bundle: Any = SimpleNamespace(info=SimpleNamespace(classes=dict.fromkeys(CLASSES)))

    def predict(asked: pa.Table, *_: object) -> pa.Table:
        assert asked.equals(rows)
        return predictions(asked, scores)

    monkeypatch.setattr(operating_point, "predict_rows", predict)
    others = manifest(labels, split=["test"] * 40, sample_id=[f"x{i:02d}" for i in range(40)])
    config = OperatingConfig(threshold="sensitivity", target=1.0, temperature=True)
    chosen = operating_point.choose_operating_points(config, bundle, pa.concat_tables([rows, others]))
    point = chosen.operating_points["slice"]
    assert set(chosen.operating_points) == {"slice"}  # single images are no scans of several slices
    assert point.threshold_source.startswith(
        "highest threshold with the best bound on 20 validation samples with a tumour"
    )
    assert chosen.temperature_source == "lowest log loss on 40 validation samples"
    written = np.array(predict(rows)["probabilities"].to_pylist(), np.float32)
    called = predicted_classes(apply_temperature(written, chosen.temperature), point.threshold)
    assert called[labels == 1].all()


def test_what_is_fixed_says_so() -> None:
    images = manifest([0, 1], split=["val"] * 2)
    volumes = manifest([0, 1], split=["val"] * 2, sample_id=["v#0", "v#1"])
    assert not operating_point.needs_validation(OperatingConfig(), images)
    assert operating_point.needs_validation(OperatingConfig(), volumes)
    fixed = operating_point.fixed_operating_points(OperatingConfig())
    assert (fixed.temperature_source, fixed.operating_points["slice"].threshold_source) == ("none", "fixed")


def scans(labels: list[int], slices: list[list[float]]) -> LabelledUnits:
    """Volumes with these probabilities of a tumour."""
    names = [f"v{scan}#{i}" for scan, values in enumerate(slices) for i in range(len(values))]
    rows = manifest([labels[int(name[1 : name.index("#")])] for name in names], sample_id=names)
    return LabelledUnits.from_predictions(predictions(rows, np.concatenate(slices)), "scan", CLASSES)


def test_the_aggregation_with_the_highest_auroc_and_its_threshold_are_chosen() -> None:
    """One slice of a scan without a tumour is high: the maximum is worse, and of equals the first counts."""
    units = scans([1, 1, 0, 0], [[0.75, 0.75, 0.5], [0.75, 0.75, 0.75], [1.0, 0, 0], [0.25, 0.25, 0.25]])
    point = operating_point.choose_unit_point(OperatingConfig(), units)
    assert point is not None
    assert (point.aggregation, point.validation_units) == ("top_mean", 4)
    assert point.aggregation_source == "highest AUROC (1.0000) on 4 validation scans"
    assert point.threshold == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert point.threshold_source == "Youden's index on 4 validation scans"  # a fixed threshold is one of slices
    fixed = operating_point.choose_unit_point(OperatingConfig(aggregation="maximum"), units)
    assert fixed is not None
    assert (fixed.aggregation, fixed.aggregation_source) == ("maximum", "fixed")
    target = operating_point.choose_unit_point(OperatingConfig(threshold="sensitivity", target=0.9), units)
    assert target is not None
    assert target.threshold_bound is not None
    assert target.threshold_bound.samples == 2
    assert "on 2 validation scans with a tumour" in target.threshold_source
    chosen = operating_point.OperatingPoints(operating_points={"scan": point})
    (text,) = operating_point.describe_operating_points(chosen)
    assert text.startswith("Operating point of scans: mean of the 3 highest slices, 0.5 or more (Youden's index on")


@pytest.mark.parametrize(
    ("labels", "slices"),
    [([0, 1], [[0.5], [0.75]]), ([1, 1], [[0.5, 0.5], [0.75]]), ([0, 0], [[0.5, 0.5], [0.75]]), ([], [[]])],
)
def test_validation_without_scans_of_several_slices_or_both_classes_gives_no_operating_point(
    labels: list[int], slices: list[list[float]]
) -> None:
    assert operating_point.choose_unit_point(OperatingConfig(), scans(labels, slices)) is None


def test_the_stored_threshold_holds_its_specificity_where_the_slices_threshold_does_not() -> None:
    """A small version of benchmarks/unit_thresholds.py, with the correlation 0.5."""
    test = unit_thresholds.make_scans(np.random.default_rng(0), 200, 50, 0.5)
    maximum = unit_thresholds.count_rates(test, "maximum", unit_thresholds.slice_threshold())
    assert maximum.specificity < 0.82  # of slices it is 0.99
    stored = [rates.specificity for _, rates in unit_thresholds.run_studies(1, test, 8, 40, 0.5)]
    assert np.mean(stored) > unit_thresholds.TARGET
    assert np.mean(np.array(stored) < unit_thresholds.TARGET - 0.02) <= 1 / 8
