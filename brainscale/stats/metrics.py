"""Labels and probabilities → figures with 95 % intervals.

Proportions have Wilson's interval, an AUROC of two sides DeLong's on the logit scale, where it is less skewed
(M. S. Pepe, 2003, 5.2.5), the rest a seeded bootstrap that draws whole groups.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit

from brainscale.errors import UsageError
from brainscale.schema import METRICS
from brainscale.stats.bootstrap import AT_PREVALENCE, bootstrapped
from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.delong import delong
from brainscale.stats.estimate import Estimate, missing_class
from brainscale.stats.intervals import effective_size, t_quantile, wilson
from brainscale.stats.resampling import group_codes

METRIC_NAMES = (
    "accuracy",
    "balanced_accuracy",
    "auroc",
    "average_precision",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "mcc",
    "macro_precision",
    "macro_recall",
    "brier",
    "log_loss",
    "ece",
    "calibration_slope",
    "calibration_intercept",
)
"""Those of any model; more classes have `auroc_<class>` besides, a prevalence two predictive values."""


def compute_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    threshold: float | np.ndarray = 0.5,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    prevalence: float | None = None,
) -> pa.Table:
    """The figures of a model on labelled samples; their order does not matter.

    Sensitivity, specificity, predictive values and calibration are those of a tumour of any kind against
    none. With more than two classes AUROC, average precision, precision, recall and F1 are macro means, and
    the ECE is that of the likeliest class instead of P(tumour).

    Args:
        labels: int [N], class indices; 0 is the class without a tumour.
        probabilities: float [N, classes].
        classes: names in the order of the columns.
        threshold: of the probability of a tumour, where there are two classes; or one for each sample [N].
        groups: [N], patient or group of duplicates: the bootstrap draws these, and intervals of proportions and
            areas take them into account.
        prevalence: share of tumours where the model is to serve, for PPV and NPV there.

    Returns:
        A table of schema METRICS.

    Raises:
        UsageError: the prevalence is no share between 0 and 1.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"prevalence {prevalence:g} is no share between 0 and 1: give 0.05 for 5 %")
    labels, probabilities = np.asarray(labels, np.int64), np.asarray(probabilities, np.float64)
    names, why_none = _names(classes, prevalence), None
    if not np.isfinite(probabilities).all():  # a comparison would call such a sample free of tumour
        why_none = "a probability is not a finite number"
    elif not len(labels):
        why_none = missing_class(labels, classes)
    if why_none:
        return _table(dict.fromkeys(names, Estimate(value=None, n=len(labels), reason=why_none)))
    codes = np.zeros(len(labels), np.int64) if groups is None else group_codes(groups)
    called = predicted_classes(probabilities, threshold)
    order = np.lexsort((codes, labels, called, *probabilities.T))
    labels, called, probabilities = labels[order], called[order], probabilities[order]
    codes = np.arange(len(labels)) if groups is None else codes[order]
    exact = {**_proportions(labels, called, classes, codes), **_areas(labels, probabilities, classes, codes)}
    figures = {**bootstrapped(labels, probabilities, called, classes, codes, prevalence), **exact}
    return _table({name: figures[name] for name in names})


def confusion(labels: np.ndarray, called: np.ndarray, classes: int) -> np.ndarray:
    """Counts [true class, predicted class]."""
    return np.bincount(labels * classes + called, minlength=classes * classes).reshape(classes, classes)


def auroc(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], codes: np.ndarray | None = None
) -> Estimate:
    """Area under the ROC curve of two classes, with DeLong's interval.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N, 2].
        classes: names.
        codes: int [N], number of each sample's group; each its own without them.
    """
    reason = missing_class(labels, classes)
    if reason:
        return Estimate(value=None, n=len(labels), reason=reason)
    return _area(labels == 1, tumour_probability(probabilities), np.arange(len(labels)) if codes is None else codes)


def as_mapping(table: pa.Table) -> Mapping[str, Mapping[str, Any]]:
    """Metric → its row."""
    return {row["metric"]: row for row in table.to_pylist()}


def _names(classes: Sequence[str], prevalence: float | None) -> list[str]:
    more = [f"auroc_{name}" for name in classes] if len(classes) > 2 else []
    return [*METRIC_NAMES, *more, *(AT_PREVALENCE if prevalence is not None else ())]


def _table(figures: Mapping[str, Estimate]) -> pa.Table:
    return pa.Table.from_pylist([{"metric": name, **vars(f)} for name, f in figures.items()], schema=METRICS)


def _proportions(
    labels: np.ndarray, called: np.ndarray, classes: Sequence[str], codes: np.ndarray
) -> dict[str, Estimate]:
    sick, called_sick = labels > 0, called > 0
    right, every = called == labels, np.ones(len(labels), bool)
    among = {
        "accuracy": (every, "no sample of any class"),
        "sensitivity": (sick, "no sample of a tumour"),
        "specificity": (~sick, f"no sample of class {classes[0]}"),
        "ppv": (called_sick, "no sample is called a tumour"),
        "npv": (~called_sick, f"no sample is called {classes[0]}"),
    }
    right_side = called_sick == sick  # a tumour of one kind called another is still found
    return {
        name: _proportion((right if name == "accuracy" else right_side)[some], codes[some], otherwise)
        for name, (some, otherwise) in among.items()
    }


def _proportion(right: np.ndarray, codes: np.ndarray, otherwise: str) -> Estimate:
    n, successes = len(right), int(right.sum())
    if n == 0:
        return Estimate(value=None, n=0, reason=otherwise)
    worth = effective_size(right, codes)
    low, high = wilson(successes / n * worth, worth)
    return Estimate(value=successes / n, low=low, high=high, method=_by_group("Wilson", codes), n=n)


def _by_group(method: str, codes: np.ndarray) -> str:
    return f"{method} by group" if len(np.unique(codes)) < len(codes) else method


def _areas(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], codes: np.ndarray
) -> dict[str, Estimate]:
    if len(classes) == 2:
        return {"auroc": auroc(labels, probabilities, classes, codes)}
    return {f"auroc_{name}": _area(labels == i, probabilities[:, i], codes, name) for i, name in enumerate(classes)}


def _area(positive: np.ndarray, scores: np.ndarray, codes: np.ndarray, name: str = "") -> Estimate:
    n = len(positive)
    if positive.all() or not positive.any():
        other = "but" if n and positive.all() else ""
        return Estimate(value=None, n=n, reason=" ".join(f"no sample {other} of class {name}".split()))
    value, variance = delong(scores, positive, codes)
    if math.isnan(variance):
        return Estimate(value=value, n=n, reason="no interval: a class has one sample, or one group")
    if variance == 0:  # DeLong's interval would be one point, as if nothing were uncertain
        return Estimate(value=value, n=n, reason="no interval: every pair of samples is ordered alike")
    smaller = min(len(np.unique(codes[side])) for side in (positive, ~positive))
    half = t_quantile(smaller) * math.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half])).tolist()
    return Estimate(value=value, low=low, high=high, method=_by_group("DeLong", codes), n=n)
