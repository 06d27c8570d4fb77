"""Pooled figures of folds; no Ray."""

from pathlib import Path

import numpy as np
import pytest

from brainscale.config.files import parse_config
from brainscale.evaluation import cross_validation
from brainscale.stats import metrics
from tests.support.tables import CLASSES, evaluation, manifest, predictions


def test_pooled_calls_are_at_each_models_own_threshold_and_repeats_count_once(tmp_path: Path) -> None:
    """Two repeats of two folds, with four thresholds; the second repeat knows no more patients than the first."""
    draw = np.random.default_rng(0)
    labels, thresholds = np.arange(80) % 2, (0.2, 0.4, 0.6, 0.8)
    scores = 1 / (1 + np.exp(-draw.normal(size=80) - 1.5 * (labels - 0.5)))
    table, places, called = manifest(labels), [], []
    for i, threshold in enumerate(thresholds):
        at = np.arange(80) % 4 // 2 == i % 2
        rows, path = table.filter(at), tmp_path / f"{i}" / "evaluation" / "test"
        evaluation(path, table, predictions(rows, scores[at]), threshold)
        called.append((scores[at] >= threshold) == labels[at])
        places.append(path)
    pooled = metrics.as_mapping(cross_validation._pooled(places, parse_config({})))
    assert pooled["accuracy"]["n"] == 160
    assert pooled["accuracy"]["value"] == pytest.approx(np.concatenate(called).mean())
    once = metrics.as_mapping(metrics.compute_metrics(labels, np.stack([1 - scores, scores], 1), CLASSES))["auroc"]
    for name in ("value", "low", "high"):
        assert pooled["auroc"][name] == pytest.approx(once[name], abs=2e-3), name
    assert pooled["auroc"]["method"] == "DeLong by group"
