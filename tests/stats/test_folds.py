"""Metrics within folds, combined: right for models of different scales, with intervals that repeats do not shrink."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom

from brainscale.stats.bootstrap import metric_values
from brainscale.stats.delong import delong
from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.folds import measure_folds
from brainscale.stats.grouped_samples import GroupedSamples
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from tests.support.samples import LONG, labelled, two_columns

STUDIES = 400 if LONG else 60
SCALES = ((0.3, -3.0), (1.0, 0.0), (2.0, 2.5), (0.7, 4.0), (1.4, -1.5))  # slope and shift of each fold's model


def study(
    draw: np.random.Generator, patients: int, slices: int, repeats: int = 1
) -> tuple[LabelledProbabilities, np.ndarray]:
    """Out-of-fold scores of five models of one quality and different scales, in each repeat."""
    labels = np.repeat(draw.integers(0, 2, patients), slices)
    codes = np.repeat(np.arange(patients), slices)
    shared = 1.2 * (2 * labels - 1) + draw.normal(size=patients)[codes] + 0.5 * draw.normal(size=len(codes))
    parts, folds = [], []
    for repeat in range(repeats):
        fold = draw.permutation(np.arange(patients) % 5)[codes]
        slope, shift = np.array(SCALES)[fold].T
        parts.append(expit(slope * (shared + (repeats > 1) * 0.5 * draw.normal(size=len(codes))) + shift))
        folds.append(fold + 5 * repeat)
    every = np.tile(labels, repeats)
    return labelled(every, two_columns(np.concatenate(parts)), groups=np.tile(codes, repeats)), np.concatenate(folds)


def estimates(samples: LabelledProbabilities, folds: Any) -> dict[str, Estimate]:
    return estimates_of(measure_folds(samples, np.asarray(folds)))


def test_one_fold_has_the_aurocs_of_delong() -> None:
    samples, _ = study(np.random.default_rng(0), 80, 1)
    one = estimates(samples, np.zeros(80))["auroc"]
    plain = estimates_of(measure(samples))["auroc"]
    assert (one.value, one.low, one.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert (one.method, plain.method) == ("within folds, DeLong", "DeLong")


def test_the_scales_of_the_models_do_not_matter() -> None:
    samples, folds = study(np.random.default_rng(1), 200, 1)
    rows = estimates(samples, folds)
    parts = [samples.take(folds == number) for number in range(5)]
    each = [delong(part.tumour_probability, part.has_tumour) for part in parts]
    assert rows["auroc"].value == pytest.approx(np.mean([value for value, _ in each]))
    pooled, _ = delong(samples.tumour_probability, samples.has_tumour)
    assert pooled < rows["auroc"].low  # type: ignore[operator]
    assert rows["accuracy"].method == "Wilson"
    assert rows["average_precision"].method == "within folds, jackknife"
    assert (rows["ece"].low, rows["ece"].reason) == (None, "no interval: noise in the bins raises it in every fold")


def test_repeats_of_the_same_scores_change_nothing() -> None:
    samples, folds = study(np.random.default_rng(2), 100, 2)
    twice = samples.take(np.tile(np.arange(len(samples)), 2))
    once, again = estimates(samples, folds), estimates(twice, np.r_[folds, folds + 5])
    for name in ("auroc", "average_precision", "calibration_slope"):
        assert again[name].low == pytest.approx(once[name].low), name
        assert again[name].high == pytest.approx(once[name].high), name


def test_a_fold_without_a_class_is_left_out_and_named() -> None:
    samples, folds = study(np.random.default_rng(3), 100, 1)
    folds = np.where(samples.labels == 1, np.minimum(folds, 3), folds)
    rows = estimates(samples, folds)
    assert rows["auroc"].reason == "without 1 of 5 folds, which lack a class"
    assert rows["accuracy"].n == 100 > rows["auroc"].n
    none = estimates(samples, np.where(samples.labels == 1, 0, 1))
    assert none["auroc"].reason == "no fold has samples of every class"


def test_a_fold_that_is_separated_has_no_slope() -> None:
    samples = labelled([0, 0, 1, 1, 0, 1, 0, 1], two_columns([0.1, 0.2, 0.8, 0.9, 0.4, 0.6, 0.7, 0.5]))
    rows = estimates(samples, [0, 0, 0, 0, 1, 1, 1, 1])
    assert rows["calibration_slope"].value is None
    assert rows["calibration_slope"].reason == "undefined in 1 of 2 folds, such as one that is separated"


def test_more_classes() -> None:
    labels = np.arange(90) % 3
    probabilities = np.random.default_rng(1).dirichlet(np.ones(3), 90) * 0.8 + np.eye(3)[labels] * 0.2
    rows = estimates(labelled(labels, probabilities, classes=("none", "a", "b")), np.arange(90) // 30)
    each = [rows[f"auroc_{name}"].value for name in ("none", "a", "b")]
    assert rows["macro_auroc"].value == pytest.approx(np.mean(each))
    assert rows["macro_auroc"].low < rows["macro_auroc"].value < rows["macro_auroc"].high  # type: ignore[operator]
    two = estimates(labelled(labels > 0, two_columns(1 - probabilities[:, 0])), np.arange(90) // 30)
    for name in ("auroc", "average_precision", "calibration_slope", "sensitivity"):
        assert rows[f"tumour_{name}"] == two[name]
        assert name not in rows


@pytest.mark.parametrize(("patients", "slices", "repeats"), [(200, 1, 1), (100, 5, 1), (150, 1, 3)])
def test_intervals_hold_the_truth(patients: int, slices: int, repeats: int) -> None:
    """Each fold's model has another scale; the truth is that of 400,000 samples, in each fold."""
    draw = np.random.default_rng(patients)
    large, large_folds = study(np.random.default_rng(0), 400_000 // (slices * repeats), slices, repeats)
    parts = [large.take(large_folds == number) for number in np.unique(large_folds)]
    each = [metric_values(GroupedSamples.of(part)) for part in parts]
    names = ("auroc", "average_precision", "calibration_slope", "calibration_intercept")
    truth = {name: float(np.mean([metrics[name] for metrics in each])) for name in names}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for _ in range(STUDIES):
        rows = estimates(*study(draw, patients, slices, repeats))
        for name, true in truth.items():
            row = rows[name]
            if row.low is not None and row.high is not None:
                held[name].append(row.low <= true <= row.high)
    coverage = {name: float(np.mean(times)) for name, times in held.items()}
    print(f"\n{patients} × {slices}, {repeats} repeats: {coverage}, truth {truth}")  # noqa: T201
    for name, share in coverage.items():
        assert binom.cdf(share * len(held[name]), len(held[name]), 0.94) > 0.002, (name, share)
