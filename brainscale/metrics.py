"""Labels and probabilities → figures with 95 % intervals.

Proportions have Wilson's interval, the binary AUROC DeLong's (in the fast form of Sun and Xu, IEEE Signal
Processing Letters 21, 2014), the rest a seeded percentile bootstrap.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from brainscale.calls import predicted, tumour
from brainscale.schema import METRICS
from brainscale.seeds import derive

Z = float(norm.ppf(0.975))
RESAMPLES = 2000
METRIC_NAMES = ("accuracy", "auroc", "sensitivity", "specificity", "macro_precision", "macro_recall")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure; a value or an interval that does not exist is None, with the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    n: int
    reason: str | None = None


def evaluate(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], threshold: float = 0.5) -> pa.Table:
    """The published table's six figures.

    With more than two classes the AUROC is the macro mean of one against the rest; sensitivity and
    specificity are those of a tumour of any kind against none.

    Args:
        labels: int [N], class indices; 0 is the class without a tumour.
        probabilities: float [N, classes].
        classes: names in the order of the columns.
        threshold: of the probability of a tumour, where there are two classes.

    Returns:
        A table of schema METRICS.
    """
    labels = np.asarray(labels, np.int64)
    if not np.isfinite(probabilities).all():  # a comparison would call such a sample free of tumour
        nothing = Figure(value=None, n=len(labels), reason="a probability is not a finite number")
        return _table(dict.fromkeys(METRIC_NAMES, nothing))
    called = predicted(probabilities, threshold)
    sick, called_sick = labels > 0, called > 0
    positive, negative = "a tumour", f"class {classes[0]}"
    figures: dict[str, Figure] = {
        "accuracy": _proportion(called == labels, "any class"),
        "auroc": auroc(labels, probabilities, classes),
        "sensitivity": _proportion(called_sick[sick], positive),
        "specificity": _proportion(~called_sick[~sick], negative),
        "macro_precision": _bootstrapped(labels, called, classes, macro_precision),
        "macro_recall": _bootstrapped(labels, called, classes, macro_recall),
    }
    return _table(figures)


def confusion(labels: np.ndarray, called: np.ndarray, classes: int) -> np.ndarray:
    """Counts [true class, predicted class]."""
    return np.bincount(labels * classes + called, minlength=classes * classes).reshape(classes, classes)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion; n ≥ 1 (E. B. Wilson, JASA 22, 1927)."""
    share, z2 = successes / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def delong(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """AUROC and its variance from the scores of both classes, by midranks.

    Args:
        positive: scores [m] of samples with a tumour, m ≥ 1.
        negative: scores [n] of samples without, n ≥ 1.

    Returns:
        The AUROC, and DeLong's variance of it (NaN when a class has one sample).
    """
    m, n = len(positive), len(negative)
    together = rankdata(np.concatenate([positive, negative]))
    of_positive = (together[:m] - rankdata(positive)) / n
    of_negative = 1 - (together[m:] - rankdata(negative)) / m
    area = float(of_positive.mean())
    if min(m, n) < 2:
        return area, math.nan
    return area, float(of_positive.var(ddof=1) / m + of_negative.var(ddof=1) / n)


def auroc(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Figure:
    """Area under the ROC curve; DeLong's interval with two classes."""
    n = len(labels)
    absent = [name for i, name in enumerate(classes) if not (labels == i).any()]
    if absent:
        return Figure(value=None, n=n, reason=f"no sample of class {absent[0]}")
    if len(classes) > 2:
        value = float(np.mean([roc_auc_score(labels == i, probabilities[:, i]) for i in range(len(classes))]))
        return Figure(value=value, n=n, reason="no interval for more than two classes")
    scores = tumour(probabilities)
    value, variance = delong(scores[labels == 1], scores[labels == 0])
    if math.isnan(variance):
        return Figure(value=value, n=n, reason="no interval: a class has one sample")
    if variance == 0:  # DeLong's interval would be one point, as if nothing were uncertain
        return Figure(value=value, n=n, reason="no interval: every pair of samples is ordered alike")
    half = Z * math.sqrt(variance)
    return Figure(value=value, low=max(0.0, value - half), high=min(1.0, value + half), method="DeLong", n=n)


def macro_precision(counts: np.ndarray) -> np.ndarray:
    """Mean over classes of the share of right ones among those called so; confusions [..., true, called].

    A class that nothing was called counts as 0, as in scikit-learn with `zero_division=0`.
    """
    right, called = np.einsum("...ii->...i", counts), counts.sum(-2)
    return np.asarray((right / np.maximum(called, 1)).mean(-1))


def macro_recall(counts: np.ndarray) -> np.ndarray:
    """Mean over classes of the share of its samples called so, from confusions [..., true, called]."""
    right, true = np.einsum("...ii->...i", counts), counts.sum(-1)
    return np.asarray((right / np.maximum(true, 1)).mean(-1))


def as_mapping(table: pa.Table) -> Mapping[str, Mapping[str, Any]]:
    """Metric → its row."""
    return {row["metric"]: row for row in table.to_pylist()}


def _table(figures: Mapping[str, Figure]) -> pa.Table:
    return pa.Table.from_pylist([{"metric": name, **vars(f)} for name, f in figures.items()], schema=METRICS)


def _proportion(right: np.ndarray, among: str) -> Figure:
    n, successes = len(right), int(right.sum())
    if n == 0:
        return Figure(value=None, n=0, reason=f"no sample of {among}")
    low, high = wilson(successes, n)
    return Figure(value=successes / n, low=low, high=high, method="Wilson", n=n)


def _bootstrapped(
    labels: np.ndarray, called: np.ndarray, classes: Sequence[str], figure: Callable[[np.ndarray], np.ndarray]
) -> Figure:
    n = len(labels)
    counts = confusion(labels, called, len(classes))
    absent = [name for i, name in enumerate(classes) if not counts[i].any()]
    if absent:
        return Figure(value=None, n=n, reason=f"no sample of class {absent[0]}")
    # Resampling N samples with replacement is a multinomial draw over the cells of the confusion matrix.
    generator = np.random.default_rng(derive(0, "bootstrap"))
    draws = generator.multinomial(n, counts.ravel() / n, RESAMPLES).reshape(RESAMPLES, *counts.shape)
    draws = draws[(draws.sum(-1) > 0).all(-1)]  # the figure does not exist where a class is absent
    value = float(figure(counts))
    if len(draws) < RESAMPLES // 10:
        return Figure(value=value, n=n, reason="no interval: too few samples of some class")
    low, high = np.percentile(figure(draws), (2.5, 97.5))
    if low == high:  # one point, as if nothing were uncertain
        return Figure(value=value, n=n, reason="no interval: every resample gives the same figure")
    return Figure(value=value, low=float(low), high=float(high), method="bootstrap", n=n)
