"""Labels and probabilities → metrics with 95 % intervals.

Proportions have Wilson's interval, an AUROC of two classes DeLong's on the logit scale, where it is less skewed
(M. S. Pepe, 2003, 5.2.5), the rest a seeded bootstrap that draws whole groups.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import expit, logit

from brainscale.errors import UsageError
from brainscale.schema import METRICS
from brainscale.stats import multiclass
from brainscale.stats.bootstrap import bootstrap_metrics
from brainscale.stats.delong import delong
from brainscale.stats.estimate import NOT_FINITE, ONE_SAMPLE, Estimate, missing_class, name_method
from brainscale.stats.grouped_samples import AT_PREVALENCE
from brainscale.stats.intervals import effective_size, t_quantile, wilson
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.resampling import Map, count_distinct, group_codes

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
"""Metrics of models with two classes; a prevalence gives two more. See `multiclass` for more classes."""
BINARY_CLASSES = ("no_tumour", "tumour")
DISJOINT_PAIRS = "Clopper-Pearson of disjoint pairs"
NO_VARIANCE = "no interval: all scores are the same, or every sample has the same share of pairs ordered correctly"
ROUNDING = 1e-6  # by which a float32 probability may leave 0 … 1
SUM_ROUNDING = 1e-2  # by which half-precision probabilities may miss a sum of 1


def compute_metrics(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    threshold: float | npt.ArrayLike = 0.5,
    groups: Iterable[Any] | None = None,
    prevalence: float | None = None,
) -> pa.Table:
    """Compute the metrics of any classifier on labelled samples; their order does not matter.

    With more than two classes the metrics have other names, see `multiclass`: of all classes together (where the Brier
    score is summed over the classes, and the ECE is that of the most probable class), of each class against the rest,
    and of a tumour of any kind against none.

    Args:
        labels: int [n], class indices; 0 is the class without a tumour.
        probabilities: float [n, classes], where P(tumour) is 1 − P(first class); or P(tumour) alone, float [n], in
            which differences below 1e-16 do not count.
        classes: names in the order of the columns; by default no_tumour and tumour, or class_0, class_1 … for more.
        threshold: threshold of the probability of a tumour, of any kind; or one for each sample [n].
        groups: [n], patient or group of duplicates of each sample, None for a group of its own: the bootstrap draws
            whole groups, and intervals of proportions and AUROCs take them into account.
        prevalence: share of tumours where the model will be used, to compute PPV and NPV for it.

    Returns:
        A table of schema METRICS. A metric that is undefined has no value, and a reason; where a probability is not a
        finite number, none has a value.

    Raises:
        UsageError: shapes do not match, a label is not a class index, the numbers are no probabilities, or the
            prevalence is not between 0 and 1.
    """
    columns, cut = _as_columns(probabilities, threshold)
    names = tuple(BINARY_CLASSES if columns.shape[1] == 2 else (f"class_{i}" for i in range(columns.shape[1])))
    samples = LabelledProbabilities(
        labels=np.asarray(labels),
        probabilities=columns,
        classes=names if classes is None else tuple(classes),
        threshold=cut,
        groups=None if groups is None else group_codes(groups),
    )
    _require_probabilities(samples)
    return measure(samples, prevalence)


def measure(samples: LabelledProbabilities, prevalence: float | None = None, run: Map = map) -> pa.Table:
    """Compute the metrics of labelled samples; see `compute_metrics`.

    Args:
        samples: labels and probabilities; their order does not matter.
        prevalence: share of tumours where the model will be used.
        run: computes parts of the bootstrap of a large evaluation; the built-in map does it here, one after another.

    Returns:
        A table of schema METRICS.

    Raises:
        UsageError: the prevalence is not between 0 and 1.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise UsageError(f"prevalence {prevalence:g} is not between 0 and 1: give 0.05 for 5 %")
    if len(samples.classes) == 2:
        return as_table(_estimates(samples, prevalence, run))
    of_classes = _estimates(samples, None, run)
    of_tumour = _estimates(multiclass.tumour_against_none(samples), prevalence, run)
    return as_table(
        {
            **multiclass.as_all_classes(of_classes),
            **{name: of_classes[name] for name in multiclass.class_metric_names(samples.classes)},
            **multiclass.as_tumour_against_none(of_tumour),
        }
    )


def _estimates(samples: LabelledProbabilities, prevalence: float | None, run: Map) -> dict[str, Estimate]:
    """Return the metrics by the names of two-class models, and those of each class where there are more."""
    names = _names(samples.classes, prevalence)
    reason = NOT_FINITE if samples.not_finite else missing_class(samples.labels, samples.classes)
    if samples.not_finite or not len(samples):  # compared with a threshold, NaN would pass for a healthy sample
        return dict.fromkeys(names, Estimate(value=None, n=len(samples), reason=reason))
    codes = np.zeros(len(samples), np.int64) if samples.groups is None else samples.groups
    ordered = samples.take(np.lexsort((codes, samples.labels, samples.predicted, *samples.probabilities.T)))
    exact = {"accuracy": _accuracy(ordered), **_proportions(ordered), **_aurocs(ordered)}
    estimates = {**bootstrap_metrics(ordered, prevalence, run), **exact}
    return {name: estimates[name] for name in names if name in estimates}


def as_table(estimates: Mapping[str, Estimate]) -> pa.Table:
    """Return metrics by name as a table of schema METRICS."""
    rows = [{"metric": name, **vars(estimate)} for name, estimate in estimates.items()]
    return pa.Table.from_pylist(rows, schema=METRICS)


def describe_degenerate(samples: LabelledProbabilities) -> str | None:
    """Return in one sentence that a model does not tell samples apart, or None where it does.

    Args:
        samples: one or more, with finite probabilities.
    """
    if samples.not_finite or len(samples) < 2:
        return None
    if (samples.probabilities == samples.probabilities[0]).all():
        return "This model is degenerate: it gives every sample the same score."
    if (samples.predicted == samples.predicted[0]).all():
        return f"This model is degenerate: it predicts {samples.classes[samples.predicted[0]]} for every sample."
    return None


def estimate_auroc(samples: LabelledProbabilities) -> Estimate:
    """Return the area under the ROC curve of two classes, with DeLong's interval."""
    reason = missing_class(samples.labels, samples.classes)
    if reason:
        return Estimate(value=None, n=len(samples), reason=reason)
    return _auroc(samples.has_tumour, samples.tumour_probability, samples.codes)


def disjoint_pairs(positive: np.ndarray, codes: np.ndarray) -> int:
    """Return the maximum number of pairs of a positive and a negative sample, each of two groups in no other pair.

    Args:
        positive: bool [n].
        codes: int [n], number of each sample's group.
    """
    of_positive, of_negative = np.unique(codes[positive]), np.unique(codes[~positive])
    return min(len(of_positive), len(of_negative), len(np.union1d(of_positive, of_negative)) // 2)


def estimate_perfect(value: float, pairs: int, n: int) -> Estimate:
    """Return an AUROC of 1 or 0 with an interval that holds for any distribution of scores.

    An AUROC of A orders each of k disjoint, and so independent, pairs of samples correctly with a chance of A at most,
    and all of them with A^k at most; where they all are, Clopper and Pearson's lower bound is 0.025^(1/k), the 95 %
    form of the rule of three (J. A. Hanley and A. Lippman-Hand, JAMA 249, 1983). No bound is nearer: with a share
    1 − A of the rarer class beyond all others, the chance is A^k.

    Args:
        value: 1 or 0.
        pairs: number of disjoint pairs.
        n: number of samples.
    """
    if pairs < 2:
        return Estimate(value=value, n=n, reason=ONE_SAMPLE)
    bound = 0.025 ** (1 / pairs)
    low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
    return Estimate(value=value, low=low, high=high, method=DISJOINT_PAIRS, n=n)


def _as_columns(
    probabilities: npt.ArrayLike, threshold: float | npt.ArrayLike
) -> tuple[np.ndarray, float | np.ndarray]:
    """Return probabilities [n, classes] and the threshold, of either form in which they may be given."""
    try:
        given, cuts = np.asarray(probabilities, np.float64), np.asarray(threshold, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"probabilities and thresholds are not arrays of numbers: {error}") from None
    if given.ndim == 1:
        given = np.stack([1 - given, given], axis=1)
        cuts = 1 - (1 - cuts)  # rounded like the scores: one of them may be the threshold
    if given.ndim != 2:
        raise UsageError(f"probabilities have shape {list(given.shape)}: give [samples, classes], or [samples]")
    return given, cuts if cuts.ndim else float(cuts)


def _require_probabilities(samples: LabelledProbabilities) -> None:
    if samples.not_finite:
        return
    outside = (samples.probabilities < -ROUNDING) | (samples.probabilities > 1 + ROUNDING)
    if outside.any():
        raise UsageError(
            f"{samples.probabilities[outside][0]:g} is not a probability: give values from 0 to 1, no logits"
        )
    sums = samples.probabilities.sum(1)
    wrong = np.abs(sums - 1) > SUM_ROUNDING
    if wrong.any():
        raise UsageError(f"the probabilities of sample {wrong.argmax()} sum to {sums[wrong][0]:g}: each row sums to 1")


def _names(classes: Sequence[str], prevalence: float | None) -> list[str]:
    of_classes = multiclass.class_metric_names(classes) if len(classes) > 2 else []
    return [*METRIC_NAMES, *of_classes, *(AT_PREVALENCE if prevalence is not None else ())]


def _accuracy(samples: LabelledProbabilities) -> Estimate:
    return _proportion(samples.predicted == samples.labels, samples.codes, "no sample of any class")


def _proportions(samples: LabelledProbabilities) -> dict[str, Estimate]:
    """Return sensitivity, specificity, PPV and NPV: of the tumour with two classes, of each class with more."""
    labels, predicted, codes, without = samples.labels, samples.predicted, samples.codes, samples.classes[0]
    if len(samples.classes) == 2:
        reasons = (
            *("no sample of a tumour", f"no sample of class {without}"),
            *("no sample is predicted to have a tumour", f"no sample is predicted to be {without}"),
        )
        return _against_rest(labels == 1, predicted == 1, codes, reasons)
    estimates = {}
    for i, name in enumerate(samples.classes):
        reasons = (
            *(f"no sample of class {name}", f"no sample of another class than {name}"),
            *(f"no sample is predicted to be {name}", f"every sample is predicted to be {name}"),
        )
        for metric, estimate in _against_rest(labels == i, predicted == i, codes, reasons).items():
            estimates[multiclass.name_of_class_metric(metric, name)] = estimate
    return estimates


def _against_rest(
    positive: np.ndarray, predicted: np.ndarray, codes: np.ndarray, reasons: tuple[str, str, str, str]
) -> dict[str, Estimate]:
    """Return sensitivity, specificity, PPV and NPV of one class.

    Args:
        positive: bool [n], whether each sample is of the class.
        predicted: bool [n], whether it is predicted to be.
        codes: int [n], number of each sample's group.
        reasons: why each of the four is undefined where it has no sample.
    """
    names = ("sensitivity", "specificity", "ppv", "npv")
    rows, correct = (positive, ~positive, predicted, ~predicted), positive == predicted
    return {
        name: _proportion(correct[mask], codes[mask], reason)
        for name, mask, reason in zip(names, rows, reasons, strict=True)
    }


def _proportion(correct: np.ndarray, codes: np.ndarray, reason: str) -> Estimate:
    n, successes = len(correct), int(correct.sum())
    if n == 0:
        return Estimate(value=None, n=0, reason=reason)
    size = effective_size(correct, codes)
    low, high = wilson(successes / n * size, size)
    return Estimate(value=successes / n, low=low, high=high, method=name_method("Wilson", codes), n=n)


def _aurocs(samples: LabelledProbabilities) -> dict[str, Estimate]:
    if len(samples.classes) == 2:
        return {"auroc": estimate_auroc(samples)}
    each = {}
    for i, name in enumerate(samples.classes):
        of_class = _auroc(samples.labels == i, samples.probabilities[:, i], samples.codes, name)
        each[multiclass.name_of_class_metric("auroc", name)] = of_class
    if {estimate.value for estimate in each.values()} != {1.0}:
        return each  # the bootstrap gives the interval of their mean
    pairs = min(disjoint_pairs(samples.labels == i, samples.codes) for i in range(len(samples.classes)))
    return {**each, "auroc": estimate_perfect(1.0, pairs, len(samples))}


def _auroc(positive: np.ndarray, scores: np.ndarray, codes: np.ndarray, name: str = "") -> Estimate:
    n = len(positive)
    if positive.all() or not positive.any():
        of_class = f"of another class than {name}" if n and positive.all() else f"of class {name}"
        return Estimate(value=None, n=n, reason=f"no sample {of_class}")
    value, variance = delong(scores, positive, codes)
    if value in (0, 1):  # DeLong's interval would be one point, as if nothing were uncertain
        return estimate_perfect(value, disjoint_pairs(positive, codes), n)
    if math.isnan(variance):
        return Estimate(value=value, n=n, reason=ONE_SAMPLE)
    if variance == 0:
        return Estimate(value=value, n=n, reason=NO_VARIANCE)
    smaller = min(count_distinct(codes[rows]) for rows in (positive, ~positive))
    half = t_quantile(smaller) * math.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half])).tolist()
    return Estimate(value=value, low=low, high=high, method=name_method("DeLong", codes), n=n)
