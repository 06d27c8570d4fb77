"""Pooled metrics of folds; no Ray."""

from pathlib import Path

import numpy as np
import pytest

from brainscale.dataset.splits import assign_folds
from brainscale.errors import ManifestError
from brainscale.evaluation.cross_validation import CrossValidation, Spread, pool_evaluations, splits_of_fold
from brainscale.schema import PUBLISHED
from brainscale.stats.metrics import estimates_of, measure
from tests.support.pages import random_samples
from tests.support.samples import CLASSES, estimates
from tests.support.tables import evaluation, manifest, predictions


def test_pooled_predictions_have_the_threshold_of_their_model_and_repeats_count_once(tmp_path: Path) -> None:
    """Two repeats of two folds, with four thresholds; the second repeat knows no more patients than the first."""
    draw = np.random.default_rng(0)
    labels, thresholds = np.arange(80) % 2, (0.2, 0.4, 0.6, 0.8)
    scores = 1 / (1 + np.exp(-draw.normal(size=80) - 1.5 * (labels - 0.5)))
    table, folders, correct = manifest(labels), [], []
    for i, threshold in enumerate(thresholds):
        tested = np.arange(80) % 4 // 2 == i % 2
        folder = tmp_path / f"{i}" / "evaluation" / "test"
        evaluation(folder, table, predictions(table.filter(tested), scores[tested]), threshold)
        correct.append((scores[tested] >= threshold) == labels[tested])
        folders.append(folder)
    pooled = estimates_of(pool_evaluations(folders, CLASSES))
    assert pooled["accuracy"].n == 160
    assert pooled["accuracy"].value == pytest.approx(np.concatenate(correct).mean())
    once = estimates(labels, scores)["auroc"]
    for end in ("value", "low", "high"):
        assert getattr(pooled["auroc"], end) == pytest.approx(getattr(once, end), abs=2e-3), end
    assert pooled["auroc"].method == "DeLong by group"


def test_each_fold_is_the_test_split_of_one_model() -> None:
    assigned = assign_folds(manifest(np.arange(60) % 2), folds=3, seed=0)
    folds = assigned["fold"].to_pylist()
    for number in range(3):
        splits = dict(zip(folds, splits_of_fold(assigned, 3, number)["split"].to_pylist(), strict=True))
        assert splits == {number: "test", (number + 1) % 3: "val", (number + 2) % 3: "train"}
    with pytest.raises(ManifestError, match="2 folds leave no training split beside test and validation: give 3"):
        splits_of_fold(assigned, 2, 0)


def test_a_cross_validation_as_json_and_as_text() -> None:
    values = [0.5, None, 0.75]
    result = CrossValidation(
        path="folds",
        models=["repeat-1/fold-1"],
        folds=3,
        repeats=1,
        by_fold=dict.fromkeys(PUBLISHED, values),
        metrics=measure(random_samples()),
        config_sha256="a",
        manifest_sha256="b",
    )
    facts = result.to_json()
    keys = ["models", "figures", "spread", "pooled", "folds", "repeats", "config_sha256", "manifest_sha256"]
    assert list(facts) == keys
    assert facts["spread"]["auroc"] == {"mean": 0.625, "deviation": pytest.approx(0.125 * 2**0.5)}
    assert facts["pooled"]["accuracy"]["n"] == 160
    assert Spread.of([None, 0.5]) == Spread(mean=0.5, deviation=None)
    heading, accuracy, *_ = result.to_text().splitlines()
    assert heading.split() == ["metric", "mean", "of", "folds", "deviation", "pooled", "95", "%", "interval"]
    assert accuracy.split()[:3] == ["accuracy", "0.6250", "0.1768"]
