"""Metrics of resamples, from confusion counts and from ranks. A metric that is undefined in a resample is NaN there."""

from dataclasses import dataclass

import numpy as np

from brainscale.stats.resampling import rows_at_once

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1 before a logarithm; float32 holds none nearer to 1."""


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0))


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


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedSamples:
    """Samples sorted once, so that each resample costs only sums along the order.

    Attributes:
        group: int32 [n], number 0 … G − 1 of each sample's group, the highest score first.
        positive: bool [n], in the same order.
        starts: int64 [distinct scores], first sample of each score; None where no two are equal.
    """

    group: np.ndarray
    positive: np.ndarray
    starts: np.ndarray | None

    @classmethod
    def of(cls, positive: np.ndarray, scores: np.ndarray, group: np.ndarray | None = None) -> "RankedSamples":
        """Return samples by their scores.

        Args:
            positive: bool [n].
            scores: float [n], higher for a positive sample.
            group: int [n], number 0 … G − 1 of each sample's group; each its own without them.
        """
        order = np.argsort(-scores, kind="stable").astype(np.int32)
        ordered = scores[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        return cls(
            group=order if group is None else group[order].astype(np.int32),
            positive=positive[order],
            starts=None if len(starts) == len(scores) else starts,
        )

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return AUROC and average precision [R].

        Ties count half in the AUROC; average precision is the sum over distinct scores of precision times the step of
        recall, as in scikit-learn.

        Args:
            weights: [R, G], how often each resample holds each group.
        """
        rows = rows_at_once(len(self.group))
        batches = [self._areas(weights[start : start + rows]) for start in range(0, len(weights), rows)]
        auroc, precision = zip(*batches, strict=True)
        return np.concatenate(auroc), np.concatenate(precision)

    def _areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        negatives = weights.take(self.group, 1).astype(np.float64)
        positives = negatives * self.positive
        negatives -= positives
        if self.starts is not None:
            positives, negatives = (np.add.reduceat(each, self.starts, 1) for each in (positives, negatives))
        true, predicted = positives.cumsum(1), negatives.cumsum(1)
        all_positive, pairs = true[:, -1].copy(), true[:, -1] * predicted[:, -1]
        predicted += true
        steps = np.maximum(predicted, 1, out=predicted)
        np.divide(positives * true, steps, out=steps)
        precision = ratio(steps.sum(1), all_positive)
        positives /= 2
        true -= positives
        negatives *= true
        return ratio(negatives.sum(1), pairs), np.where(pairs > 0, precision, np.nan)


def auroc_and_average_precision(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return AUROC and average precision of samples, NaN where a class has none.

    Args:
        positive: bool [n ≥ 1].
        scores: float [n], higher for a positive sample.
    """
    auroc, precision = RankedSamples.of(positive, scores).areas(np.ones((1, len(scores))))
    return float(auroc[0]), float(precision[0])


def brier_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return squared errors [n]: of P(tumour) with two classes; summed over the classes with more, so 0 to 2."""
    if probabilities.shape[1] == 2:
        return np.asarray((1 - probabilities[:, 0] - labels) ** 2)
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1))


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return −log P(true class) [n], natural, P at least `CLIP`."""
    of_true = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(of_true, CLIP, 1 - CLIP)))
