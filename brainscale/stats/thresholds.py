"""Choose the operating threshold by Youden's index, and the temperature, on validation samples only.

On the samples that it was chosen on, a threshold looks better than on others. A sample is predicted to have a tumour
when its score is at least the threshold. A threshold between two neighbouring distinct scores lies midway, so that it
prefers neither; below the lowest score there is no neighbour, and the threshold is that score itself.
"""

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from brainscale.errors import ManifestError
from brainscale.stats.decisions import TINY

COLDEST, HOTTEST = 0.05, 20.0


def youden_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the threshold that maximises sensitivity + specificity − 1 (W. J. Youden, Cancer 3, 1950).

    Of equals, the lowest: it misses fewer tumours.

    Args:
        labels: bool or 0/1 [n], a tumour or none.
        scores: float [n], higher for a tumour.

    Raises:
        ManifestError: a class has no sample, or a score is not a finite number.
    """
    has_tumour = require_both_classes(labels, scores)
    distinct, step = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(step[rows], minlength=len(distinct)) for rows in (has_tumour, ~has_tumour))
    missed = np.cumsum(positive) - positive  # tumours below each distinct score
    cleared = np.cumsum(negative) - negative
    # In whole numbers, for equals to be equal: J · m · n = cleared · m − missed · n.
    return cut_below(distinct, int(np.argmax(cleared * positive.sum() - missed * negative.sum())))


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature that minimises the log loss (C. Guo et al., ICML 2017), for `apply_temperature`.

    It moves every threshold but 0.5, so the threshold is chosen after it.

    Log-probabilities differ from logits by a constant for each sample, so both give the same. The log loss
    is convex in 1 / T; T is sought between 0.05 and 20, and is the bound where the loss still falls towards it,
    as it does when every sample is classified correctly.

    Args:
        labels: int [n], class indices.
        probabilities: float [n, classes].

    Raises:
        ManifestError: all samples are of one class, or a probability is not a finite number.
    """
    labels = np.asarray(labels, np.int64)
    if len(np.unique(labels)) < 2:
        raise ManifestError(
            "the temperature needs validation samples of two classes or more: there are none, or of one only"
        )
    if not np.isfinite(probabilities).all():
        raise ManifestError("a validation probability is not a finite number: no temperature can be chosen")
    logits, rows = np.log(np.clip(np.asarray(probabilities, np.float64), TINY, 1)), np.arange(len(labels))

    def loss(log_t: float) -> float:
        return float(-log_softmax(logits / math.exp(log_t), axis=1)[rows, labels].mean())

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x
    return math.exp(min((*bounds, float(best)), key=loss))


def require_both_classes(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the labels as bool [n], if a threshold can be chosen from them."""
    has_tumour = np.asarray(labels) > 0
    if has_tumour.all() or not has_tumour.any():
        missing = "without a tumour" if len(has_tumour) and has_tumour.all() else "with a tumour"
        raise ManifestError(f"a threshold needs validation samples of both classes: there is none {missing}")
    if not np.isfinite(scores).all():
        raise ManifestError("a validation score is not a finite number: no threshold can be chosen")
    return has_tumour


def cut_below(distinct: np.ndarray, lowest: int) -> float:
    """Return the threshold that distinct[lowest] and all scores above it reach, of ascending scores."""
    above = float(distinct[lowest])
    if lowest == 0:
        return above
    below = float(distinct[lowest - 1])
    middle = below + (above - below) / 2
    return middle if below < middle else above  # neighbouring floats have no middle
