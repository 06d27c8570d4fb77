"""The operating threshold and the temperature, chosen on validation samples only.

A threshold chosen on the samples that it is then judged on flatters itself. A sample is called a tumour
when its score is at least the threshold. A cut between two neighbouring distinct scores lies midway, so
that it prefers neither; below the lowest score there is no neighbour, and the cut is that score itself.
"""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from brainscale.errors import ManifestError, UsageError
from brainscale.stats.decisions import TINY

COLDEST, HOTTEST = 0.05, 20.0


def youden_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Threshold that maximises sensitivity + specificity − 1 (W. J. Youden, Cancer 3, 1950).

    Of equals, the lowest: it misses fewer tumours.

    Args:
        labels: bool or 0/1 [N], a tumour or none.
        scores: float [N], higher for a tumour.

    Raises:
        ManifestError: a class is absent, or a score is no finite number.
    """
    sick = _both(labels, scores)
    distinct, at = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(at[side], minlength=len(distinct)) for side in (sick, ~sick))
    missed = np.cumsum(positive) - positive  # tumours below each distinct score
    cleared = np.cumsum(negative) - negative
    # In whole numbers, for equals to be equal: J · m · n = cleared · m − missed · n.
    return _cut(distinct, int(np.argmax(cleared * positive.sum() - missed * negative.sum())))


def sensitivity_threshold(labels: np.ndarray, scores: np.ndarray, target: float) -> float:
    """The highest threshold whose sensitivity reaches the target.

    Args:
        labels: bool or 0/1 [N], a tumour or none.
        scores: float [N], higher for a tumour.
        target: sensitivity, above 0 and at most 1.

    Raises:
        UsageError: the target is no sensitivity.
        ManifestError: a class is absent, or a score is no finite number.
    """
    if not 0 < target <= 1:
        raise UsageError(f"sensitivity {target:g} cannot be a target: give a share such as 0.95")
    sick = _both(labels, scores)
    positive = np.sort(np.asarray(scores)[sick])[::-1]
    enough = int(np.argmax(np.arange(1, len(positive) + 1) / len(positive) >= target))
    distinct = np.unique(scores)
    return _cut(distinct, int(np.searchsorted(distinct, positive[enough])))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that minimises the log loss (C. Guo et al., ICML 2017), for `calls.tempered`.

    It moves every threshold but 0.5, so the threshold is chosen after it.

    Log-probabilities differ from logits by a constant for each sample, so both give the same. The log loss
    is convex in 1 / T; T is sought between 0.05 and 20, and is the bound where the loss falls on beyond it,
    as it does when every sample is right.

    Args:
        probabilities: float [N, classes].
        labels: int [N], class indices.

    Raises:
        ManifestError: only one class is there, or a probability is no finite number.
    """
    labels = np.asarray(labels, np.int64)
    if len(np.unique(labels)) < 2:
        raise ManifestError("the temperature needs validation samples of two classes: only one is there")
    if not np.isfinite(probabilities).all():
        raise ManifestError("a validation probability is not a finite number: choose no temperature from it")
    logits, rows = np.log(np.clip(np.asarray(probabilities, np.float64), TINY, 1)), np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / math.exp(log_t), axis=1)[rows, labels].mean())

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x
    return math.exp(min((*bounds, float(found)), key=loss))


def _both(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Labels as bool [N], when a threshold can be chosen from them."""
    sick = np.asarray(labels) > 0
    if sick.all() or not sick.any():
        missing = "without a tumour" if len(sick) and sick.all() else "with a tumour"
        raise ManifestError(f"a threshold needs both sides, and no validation sample is one {missing}")
    if not np.isfinite(scores).all():
        raise ManifestError("a validation score is not a finite number: choose no threshold from it")
    return sick


def _cut(distinct: np.ndarray, at: int) -> float:
    """Threshold that calls distinct[at] and all above it, of ascending scores."""
    above = float(distinct[at])
    if at == 0:
        return above
    below = float(distinct[at - 1])
    middle = below + (above - below) / 2
    return middle if below < middle else above  # neighbouring floats have no middle
