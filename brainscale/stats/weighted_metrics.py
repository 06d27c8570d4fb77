"""Figures as functions of the samples' weights, so that one pass gives all resamples of a bootstrap.

Weights are counts [R, N]: R resamples of N samples. A figure that does not exist in a resample is NaN there.
"""

import numpy as np

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm; float32 holds none nearer to 1."""


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Quotient of part and whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0))


def mean(weights: np.ndarray, figures: np.ndarray) -> np.ndarray:
    """Weighted mean [R] of a figure of each sample [N]."""
    return ratio(np.asarray(weights @ figures), weights.sum(1))


def confusions(weights: np.ndarray, labels: np.ndarray, called: np.ndarray, classes: int) -> np.ndarray:
    """Counts [R, true class, predicted class]."""
    cell = np.eye(classes * classes)[labels * classes + called]
    return np.asarray(weights @ cell).reshape(len(weights), classes, classes)


def macro_precision(counts: np.ndarray) -> np.ndarray:
    """Mean over classes of the share of right ones among those called so; confusions [..., true, called].

    A class that nothing was called counts as 0, as in scikit-learn with `zero_division=0`; without a
    sample of some class the figure does not exist.
    """
    right, called = np.einsum("...ii->...i", counts), counts.sum(-2)
    there = (counts.sum(-1) > 0).all(-1)
    return np.where(there, (right / np.maximum(called, 1)).mean(-1), np.nan)


def macro_recall(counts: np.ndarray) -> np.ndarray:
    """Mean over classes of the share of its samples called so, from confusions [..., true, called]."""
    return np.asarray(ratio(np.einsum("...ii->...i", counts), counts.sum(-1)).mean(-1))


def f1(counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall: of the tumour with two classes, the macro mean with more."""
    right, called, true = np.einsum("...ii->...i", counts), counts.sum(-2), counts.sum(-1)
    of_class = np.where(true > 0, ratio(2 * right, called + true), np.nan)
    return of_class[..., 1] if counts.shape[-1] == 2 else np.asarray(of_class.mean(-1))


def mcc(counts: np.ndarray) -> np.ndarray:
    """Matthews' correlation of K classes (J. Gorodkin, Computational Biology and Chemistry 28, 2004).

    NaN where all labels or all calls are alike: scikit-learn says 0 there.
    """
    total, right = counts.sum((-1, -2)), np.einsum("...ii->...", counts)
    called, true = counts.sum(-2), counts.sum(-1)
    spread = (total**2 - (called**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return ratio(right * total - (called * true).sum(-1), np.sqrt(spread))


def rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity and specificity [...], a tumour of any kind against none."""
    sick, healthy = counts[..., 1:, :].sum((-1, -2)), counts[..., 0, :].sum(-1)
    return ratio(counts[..., 1:, 1:].sum((-1, -2)), sick), ratio(counts[..., 0, 0], healthy)


def predictive_values(counts: np.ndarray, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    """PPV and NPV [...] where a share `prevalence` has a tumour, by Bayes' theorem."""
    sensitivity, specificity = rates(counts)
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    ppv = ratio(true_positive, true_positive + false_positive)
    return ppv, ratio(true_negative, true_negative + false_negative)


def ranking(weights: np.ndarray, sick: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision [R] from one sort and sums along it.

    Ties count half in the AUROC; average precision is the sum over distinct scores of precision times the
    step of recall, as in scikit-learn.

    Args:
        weights: [R, N].
        sick: bool [N].
        scores: float [N], higher for a tumour.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(drawn * sick[order], starts, axis=1)
    negative = np.add.reduceat(drawn * ~sick[order], starts, axis=1)
    true, false = positive.cumsum(1), negative.cumsum(1)
    both = true[:, -1] * false[:, -1]
    wins = (negative * (true - positive / 2)).sum(1)
    steps = (positive * true / np.maximum(true + false, 1)).sum(1)
    return ratio(wins, both), np.where(both > 0, ratio(steps, true[:, -1]), np.nan)


def macro_ranking(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision [R]: of P(tumour) with two classes, the mean of one against the rest with more."""
    if probabilities.shape[1] == 2:
        return ranking(weights, labels > 0, 1 - probabilities[:, 0])
    each = [ranking(weights, labels == i, probabilities[:, i]) for i in range(probabilities.shape[1])]
    return np.mean([area for area, _ in each], 0), np.mean([precision for _, precision in each], 0)


def brier_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared errors [N]: of P(tumour) with two classes; summed over the classes with more, so 0 to 2."""
    if probabilities.shape[1] == 2:
        return np.asarray((1 - probabilities[:, 0] - labels) ** 2)
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1))


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """−log P(true class) [N], natural, P at least `CLIP`."""
    of_true = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(of_true, CLIP, 1 - CLIP)))
