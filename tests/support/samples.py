"""Labelled probabilities to test with, and their metrics."""

import os
from typing import Any

import numpy as np

from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import compute_metrics
from brainscale.stats.resampling import group_codes

LONG = "BRAINSCALE_LONG" in os.environ
CLASSES = ("no_tumour", "tumour")


def two_columns(scores: Any) -> np.ndarray:
    """P(tumour) [n] → probabilities [n, 2]."""
    column = np.asarray(scores, np.float64)
    return np.stack([1 - column, column], 1)


def estimates(labels: Any, probabilities: Any, **options: Any) -> dict[str, Estimate]:
    """The metrics by name."""
    return estimates_of(compute_metrics(labels, probabilities, **options))


def labelled(
    labels: Any, probabilities: Any, classes: Any = CLASSES, threshold: Any = 0.5, groups: Any = None
) -> LabelledProbabilities:
    """Labelled probabilities; groups are names."""
    return LabelledProbabilities(
        labels=np.asarray(labels),
        probabilities=probabilities,
        classes=tuple(classes),
        threshold=threshold,
        groups=None if groups is None else group_codes(groups),
    )
