"""Metrics of a cross-validation, whose models have different scales: their scores are not ranked together.

What depends on the scale of the scores is computed within each fold, and the mean of the folds is reported, each with
the same weight, as cross-validated AUROCs are defined (E. LeDell, M. Petersen and M. van der Laan, Electronic Journal
of Statistics 9, 2015). Metrics of the predictions, each at the threshold of its own model, and means over samples
(Brier score, log loss) are computed over all samples.
"""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy.special import expit, logit

from brainscale.stats import multiclass
from brainscale.stats.bootstrap import metric_values, metrics_left_out
from brainscale.stats.delong import placements
from brainscale.stats.estimate import ONE_SAMPLE, Estimate, estimates_of, missing_class, name_method
from brainscale.stats.grouped_samples import GroupedSamples
from brainscale.stats.intervals import t_quantile
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import DISJOINT_PAIRS, NO_VARIANCE, as_table, disjoint_pairs, estimate_perfect, measure
from brainscale.stats.resampling import count_distinct, jackknife_blocks

WITHIN_FOLDS = ("auroc", "average_precision", "ece", "calibration_slope", "calibration_intercept")
"""Metrics that depend on the scale of the scores, by the names of two-class models; `auroc_<class>` does too."""
SHARES = ("average_precision",)  # between 0 and 1: their interval is made on the logit scale
NO_ECE = "no interval: noise in the bins raises it in every fold"


def measure_folds(samples: LabelledProbabilities, folds: np.ndarray) -> pa.Table:
    """Compute the metrics of a cross-validation.

    Args:
        samples: out-of-fold predictions, with the threshold of each sample's own model. A sample that several repeats
            predicted stands there several times, and its group must be one.
        folds: int [n], number of the model that predicted each sample.

    Returns:
        A table of schema METRICS. Intervals treat the models as given, and say what other samples would change: the
        influence of a group on all folds and repeats is summed before it is squared, so repeats do not count as new
        samples.
    """
    pooled = estimates_of(measure(samples))
    if samples.not_finite or not len(samples):
        return as_table(pooled)
    if len(samples.classes) == 2:
        within = _within_folds(samples, folds)
    else:
        of_classes = _within_folds(samples, folds)
        of_tumour = _within_folds(multiclass.tumour_against_none(samples), folds)
        within = {
            **{name: of_classes[key] for name, key in multiclass.OF_ALL_CLASSES.items() if key in of_classes},
            **{name: estimate for name, estimate in of_classes.items() if name.startswith("auroc_")},
            **multiclass.as_tumour_against_none(of_tumour),
        }
    return as_table(pooled | within)


def _within_folds(samples: LabelledProbabilities, folds: np.ndarray) -> dict[str, Estimate]:
    """Return the metrics that are computed within folds, by the names of two-class models, and `auroc_<class>`."""
    samples = replace(samples, groups=samples.codes)
    numbers = np.unique(folds)
    complete = [number for number in numbers if missing_class(samples.labels[folds == number], samples.classes) is None]
    if not complete:
        reason = missing_class(samples.labels, samples.classes) or "no fold has samples of every class"
        of_classes = [multiclass.name_of_class_metric("auroc", name) for name in samples.classes]
        names = (*WITHIN_FOLDS, *(of_classes if len(samples.classes) > 2 else ()))
        return dict.fromkeys(names, Estimate(value=None, n=len(samples), reason=reason))
    left_out = f"without {len(numbers) - len(complete)} of {len(numbers)} folds, which lack a class"
    note = None if len(complete) == len(numbers) else left_out
    kept = np.isin(folds, complete)
    samples, folds = samples.take(kept), folds[kept]
    within = {**_jackknife(samples, folds), **_aurocs(samples, folds)}
    return {
        name: replace(estimate, reason="; ".join(filter(None, (estimate.reason, note))) or None)
        for name, estimate in within.items()
    }


def _aurocs(samples: LabelledProbabilities, folds: np.ndarray) -> dict[str, Estimate]:
    """Return the mean AUROCs of the folds, with DeLong's variance of each, Obuchowski's by group."""
    codes = samples.codes
    if len(samples.classes) == 2:
        value, influences = _of_folds(samples.has_tumour, samples.tumour_probability, codes, folds)
        return {"auroc": _estimate_auroc(samples, folds, value, influences, samples.has_tumour)}
    columns = enumerate(samples.probabilities.T)
    each = [_of_folds(samples.labels == i, scores, codes, folds) for i, scores in columns]
    estimates = {
        multiclass.name_of_class_metric("auroc", name): _estimate_auroc(samples, folds, *each[i], samples.labels == i)
        for i, name in enumerate(samples.classes)
    }
    macro = float(np.mean([value for value, _ in each]))
    influences = np.asarray(np.mean([influence for _, influence in each], 0))
    rarest = int(np.bincount(samples.labels, minlength=len(each)).argmin())
    return {"auroc": _estimate_auroc(samples, folds, macro, influences, samples.labels == rarest), **estimates}


def _of_folds(
    positive: np.ndarray, scores: np.ndarray, codes: np.ndarray, folds: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the mean AUROC of the folds, and each sample's influence on it [n].

    Summed by group and squared, influences add to DeLong's variance, or Obuchowski's; NaN where a class of a fold has
    one group.
    """
    influences, values = np.zeros(len(scores)), []
    numbers = np.unique(folds)
    for number in numbers:
        fold = folds == number
        shares = placements(scores[fold & positive], scores[fold & ~positive])
        values.append(float(shares[0].mean()))
        for rows, share in zip((fold & positive, fold & ~positive), shares, strict=True):
            count = count_distinct(codes[rows])
            unbiased = math.sqrt(count / (count - 1)) if count > 1 else math.nan
            influences[rows] = unbiased * (share - share.mean()) / len(share) / len(numbers)
    return float(np.mean(values)), influences


def _estimate_auroc(
    samples: LabelledProbabilities, folds: np.ndarray, value: float, influences: np.ndarray, positive: np.ndarray
) -> Estimate:
    n = len(samples)
    if value in (0, 1):
        return replace(estimate_perfect(value, _pairs(samples, folds), n), method=f"within folds, {DISJOINT_PAIRS}")
    if np.isnan(influences).any():
        return Estimate(value=value, n=n, reason=ONE_SAMPLE)
    _, group = np.unique(samples.codes, return_inverse=True)
    variance = float((np.bincount(group, influences) ** 2).sum())
    if variance == 0:
        return Estimate(value=value, n=n, reason=NO_VARIANCE)
    smaller = min(count_distinct(group[rows]) for rows in (positive, ~positive))
    half = t_quantile(smaller) * math.sqrt(variance)
    return _on_logit_scale(value, half, n, f"within folds, {name_method('DeLong', samples.codes)}")


def _pairs(samples: LabelledProbabilities, folds: np.ndarray) -> int:
    """Return how many disjoint pairs of groups the folds of one repeat have, each as many as the smallest fold."""
    numbers, codes = np.unique(folds), samples.codes
    _, group = np.unique(codes, return_inverse=True)
    in_folds = np.flatnonzero(np.bincount(group * len(numbers) + np.searchsorted(numbers, folds)))
    repeats = int(np.bincount(in_folds // len(numbers)).max())  # folds of the group that is in the most
    least = min(
        disjoint_pairs(samples.labels[folds == number] == i, codes[folds == number])
        for number in numbers
        for i in range(len(samples.classes))
    )
    return least * -(-len(numbers) // repeats)


def _jackknife(samples: LabelledProbabilities, folds: np.ndarray) -> dict[str, Estimate]:
    """Return the mean of the other metrics over the folds; blocks of groups are left out of all folds at once."""
    own, left_out = [], []
    block, blocks = jackknife_blocks(samples.codes)
    for number in np.unique(folds):
        rows = folds == number
        grouped = GroupedSamples.of(samples.take(rows))
        _, first = np.unique(samples.codes[rows], return_index=True)
        own.append(metric_values(grouped))
        left_out.append(metrics_left_out(grouped, block[rows][first], None, range(blocks)))
    estimates = {}
    for name in WITHIN_FOLDS[1:]:
        values = np.array([metrics[name] for metrics in own])
        defined = np.isfinite(values)
        if not defined.all():
            reason = f"undefined in {len(values) - defined.sum()} of {len(values)} folds, such as one that is separated"
            estimates[name] = Estimate(value=None, n=len(samples), reason=reason)
            continue
        value, blocks = float(values.mean()), np.mean([metrics[name] for metrics in left_out], 0)
        spread = float(blocks.var()) if np.isfinite(blocks).all() else math.nan
        half = t_quantile(len(blocks)) * math.sqrt((len(blocks) - 1) * spread)
        estimate = Estimate(value=value, n=len(samples))
        method = f"within folds, {name_method('jackknife', samples.codes)}"
        if name == "ece":
            estimates[name] = replace(estimate, reason=NO_ECE)
        elif not half > 0:  # NaN too
            estimates[name] = replace(estimate, reason="no interval: it is undefined without some samples, or constant")
        elif name in SHARES and 0 < value < 1:
            estimates[name] = _on_logit_scale(value, half, len(samples), method)
        else:
            estimates[name] = replace(estimate, low=value - half, high=value + half, method=method)
    return estimates


def _on_logit_scale(value: float, half: float, n: int, method: str) -> Estimate:
    """Return a share with its interval, which is symmetric on the logit scale."""
    low, high = expit(logit(value) + np.array([-half, half]) / (value * (1 - value))).tolist()
    return Estimate(value=value, low=low, high=high, method=method, n=n)
