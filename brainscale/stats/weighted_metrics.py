"""Metrics as functions of the samples' weights, so that one pass gives all resamples of a bootstrap.

Weights are counts [R, n]: R resamples of n samples. A metric that is undefined in a resample is NaN there.
"""

import numpy as np

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm; float32 holds none nearer to 1."""


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0))


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the weighted mean [R] of a value of each sample [n]."""
    return ratio(np.asarray(weights @ values), weights.sum(1))


def confusion_matrices(weights: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts [R, true class, predicted class]."""
    cell = np.eye(classes * classes)[labels * classes + predicted]
    return np.asarray(weights @ cell).reshape(len(weights), classes, classes)


def macro_precision(counts: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the precision of each, from counts [..., true, predicted].

    A class that was never predicted counts as 0, as in scikit-learn with `zero_division=0`; where a class has no
    sample the metric is undefined.
    """
    correct, predicted = np.einsum("...ii->...i", counts), counts.sum(-2)
    all_present = (counts.sum(-1) > 0).all(-1)
    return np.where(all_present, (correct / np.maximum(predicted, 1)).mean(-1), np.nan)


def macro_recall(counts: np.ndarray) -> np.ndarray:
    """Return the mean over classes of the recall of each, from counts [..., true, predicted]."""
    return np.asarray(ratio(np.einsum("...ii->...i", counts), counts.sum(-1)).mean(-1))


def f1(counts: np.ndarray) -> np.ndarray:
    """Return the harmonic mean of precision and recall: of the tumour with two classes, the macro mean with more."""
    correct, predicted, true = np.einsum("...ii->...i", counts), counts.sum(-2), counts.sum(-1)
    by_class = np.where(true > 0, ratio(2 * correct, predicted + true), np.nan)
    return by_class[..., 1] if counts.shape[-1] == 2 else np.asarray(by_class.mean(-1))


def mcc(counts: np.ndarray) -> np.ndarray:
    """Return Matthews' correlation of K classes (J. Gorodkin, Computational Biology and Chemistry 28, 2004).

    NaN where all labels or all predictions are the same: scikit-learn says 0 there.
    """
    total, correct = counts.sum((-1, -2)), np.einsum("...ii->...", counts)
    predicted, true = counts.sum(-2), counts.sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return ratio(correct * total - (predicted * true).sum(-1), np.sqrt(spread))


def sensitivity_and_specificity(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sensitivity and specificity [...], a tumour of any kind against none."""
    with_tumour, without_tumour = counts[..., 1:, :].sum((-1, -2)), counts[..., 0, :].sum(-1)
    return ratio(counts[..., 1:, 1:].sum((-1, -2)), with_tumour), ratio(counts[..., 0, 0], without_tumour)


def predictive_values(counts: np.ndarray, prevalence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return PPV and NPV [...] where a share `prevalence` of samples has a tumour, by Bayes' theorem."""
    sensitivity, specificity = sensitivity_and_specificity(counts)
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    ppv = ratio(true_positive, true_positive + false_positive)
    return ppv, ratio(true_negative, true_negative + false_negative)


def ranking(weights: np.ndarray, positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision [R], from one sort and sums along it.

    Ties count half in the AUROC; average precision is the sum over distinct scores of precision times the
    step of recall, as in scikit-learn.

    Args:
        weights: [R, n].
        positive: bool [n].
        scores: float [n], higher for a positive sample.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    drawn = weights[:, order].astype(np.float64)
    positives = np.add.reduceat(drawn * positive[order], starts, axis=1)
    negatives = np.add.reduceat(drawn * ~positive[order], starts, axis=1)
    true, false = positives.cumsum(1), negatives.cumsum(1)
    pairs = true[:, -1] * false[:, -1]
    wins = (negatives * (true - positives / 2)).sum(1)
    steps = (positives * true / np.maximum(true + false, 1)).sum(1)
    return ratio(wins, pairs), np.where(pairs > 0, ratio(steps, true[:, -1]), np.nan)


def macro_ranking(weights: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision [R]: of P(tumour) with two classes, the mean of one against rest with more."""
    if probabilities.shape[1] == 2:
        return ranking(weights, labels > 0, 1 - probabilities[:, 0])
    each = [ranking(weights, labels == i, probabilities[:, i]) for i in range(probabilities.shape[1])]
    return np.mean([auroc for auroc, _ in each], 0), np.mean([precision for _, precision in each], 0)


def brier_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return squared errors [n]: of P(tumour) with two classes; summed over the classes with more, so 0 to 2."""
    if probabilities.shape[1] == 2:
        return np.asarray((1 - probabilities[:, 0] - labels) ** 2)
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1))


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return −log P(true class) [n], natural, P at least `CLIP`."""
    of_true = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(of_true, CLIP, 1 - CLIP)))
