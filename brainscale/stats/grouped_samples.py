"""Samples summed by group and sorted once, so that a resample of whole groups costs little.

Most metrics are functions of sums, such as counts and losses, so a resample costs as much as there are groups. Only
ranking metrics look at each sample, along an order that is sorted once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from brainscale.stats import weighted_metrics
from brainscale.stats.calibration import ECE_BINS, Recalibration, calibration_bins
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.weighted_metrics import RankedSamples, ratio

AT_PREVALENCE = ("ppv_at_prevalence", "npv_at_prevalence")
ECE_NOISE = "ece_noise"
"""Name of the differences between a resample's gaps in the calibration bins and the samples', their sizes in sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedSamples:
    """Labelled samples by group, numbered 0 … G − 1 in the order of their codes.

    Attributes:
        group: int32 [n], number of each sample's group.
        classes: number of classes.
        sums: float64 [columns, G], each group's sums: one for each cell of the confusion matrix, the two losses, a gap
            for each bin of the calibration, the terms of the calibration intercept's residual.
        rankings: the samples by P(tumour) with two classes, by each class's probability with more.
        recalibration: logistic regressions of the label on the probability.
    """

    group: np.ndarray
    classes: int
    sums: csr_array
    rankings: tuple[RankedSamples, ...]
    recalibration: Recalibration

    @classmethod
    def of(cls, samples: LabelledProbabilities) -> "GroupedSamples":
        """Return samples by group; there is one sample at least."""
        _, group = np.unique(samples.codes, return_inverse=True)
        group = group.astype(np.int32)
        recalibration = Recalibration.of(samples.has_tumour, samples.tumour_probability, group)
        return cls(
            group=group,
            classes=len(samples.classes),
            sums=_sum_by_group(samples, group, recalibration.residual_terms()),
            rankings=tuple(RankedSamples.of(*ranked, group) for ranked in _rankings(samples)),
            recalibration=recalibration,
        )

    @property
    def groups(self) -> int:
        """The number of groups."""
        return int(self.sums.shape[1])

    def __len__(self) -> int:
        return len(self.group)

    def measure(self, weights: np.ndarray, prevalence: float | None = None) -> dict[str, np.ndarray]:
        """Return each metric but the calibration slope, and `ECE_NOISE`, in each resample: name → float64 [R].

        Args:
            weights: [R, G], how often each resample holds each group.
            prevalence: share of tumours to compute the two predictive values for, if any.
        """
        counts, (brier, log_loss), gap_sums, terms = self._sums(weights)
        n = counts.sum((1, 2))
        gaps = ratio(gap_sums, n[:, None])
        areas = [ranking.areas(weights) for ranking in self.rankings]
        recall = weighted_metrics.macro_recall(counts)
        has_both = (counts[:, 0].sum(1) > 0) & (counts[:, 1:].sum((1, 2)) > 0)
        values = {
            "balanced_accuracy": recall,
            "auroc": np.mean([auroc for auroc, _ in areas], 0),
            "average_precision": np.mean([precision for _, precision in areas], 0),
            "f1": weighted_metrics.f1(counts),
            "mcc": weighted_metrics.mcc(counts),
            "macro_precision": weighted_metrics.macro_precision(counts),
            "macro_recall": recall,
            "brier": ratio(brier, n),
            "log_loss": ratio(log_loss, n),
            "ece": np.abs(gaps).sum(1),
            ECE_NOISE: np.abs(gaps - self._own_gaps).sum(1),
            "calibration_intercept": self.recalibration.intercepts(weights, terms, has_both),
        }
        if prevalence is not None:
            values |= zip(AT_PREVALENCE, weighted_metrics.predictive_values(counts, prevalence), strict=True)
        return values

    def slopes(self, weights: np.ndarray) -> np.ndarray:
        """Return the calibration slope of each resample: float64 [R]."""
        return self.recalibration.slopes(weights)

    @cached_property
    def _own_gaps(self) -> np.ndarray:
        """Confidence less outcome in each bin, in shares of the samples: float64 [bins]."""
        _, _, gaps, _ = self._sums(np.ones((1, self.groups)))
        return np.asarray(gaps[0] / len(self))

    def _sums(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return confusion counts [R, true, predicted], losses [2, R], gaps [R, bins], and terms [R, ORDER + 1]."""
        sums = np.asarray(self.sums @ weights.T.astype(np.float64))
        losses, gaps = self.classes**2, self.classes**2 + 2
        counts = sums[:losses].T.reshape(len(weights), self.classes, self.classes)
        return counts, sums[losses:gaps], sums[gaps : gaps + ECE_BINS].T, sums[gaps + ECE_BINS :].T


def confidence_and_outcome(samples: LabelledProbabilities) -> tuple[np.ndarray, np.ndarray]:
    """Return what the ECE compares: a probability [n], and whether it came true [n].

    With two classes the probability of a tumour and whether there is one; with more, the highest probability and
    whether its class is the label.
    """
    if len(samples.classes) == 2:
        return samples.tumour_probability, samples.has_tumour
    return samples.probabilities.max(1), samples.probabilities.argmax(1) == samples.labels


def _rankings(samples: LabelledProbabilities) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return which samples are positive, and their scores, for each ranking."""
    if len(samples.classes) == 2:
        return [(samples.has_tumour, samples.tumour_probability)]
    return [(samples.labels == i, scores) for i, scores in enumerate(samples.probabilities.T)]


def _sum_by_group(samples: LabelledProbabilities, group: np.ndarray, terms: Iterable[np.ndarray]) -> csr_array:
    """Return the attribute `sums` of `GroupedSamples`, column by column: most are 0 in most groups, or in none."""
    classes, groups = len(samples.classes), int(group.max()) + 1
    confidence, outcome = confidence_and_outcome(samples)
    cell, bins = samples.labels * classes + samples.predicted, calibration_bins(confidence)
    gaps = confidence - outcome
    losses = (weighted_metrics.brier_losses, weighted_metrics.log_losses)
    columns = [
        *(_column(group[cell == i], groups) for i in range(classes**2)),
        *(_column(group, groups, loss(samples.labels, samples.probabilities)) for loss in losses),
        *(_column(group[bins == i], groups, gaps[bins == i]) for i in range(ECE_BINS)),
        *(_column(group, groups, term) for term in terms),
    ]
    data, indices = zip(*columns, strict=True)
    ends = np.cumsum([0, *map(len, indices)])
    return csr_array((np.concatenate(data), np.concatenate(indices), ends), shape=(len(columns), groups))


def _column(group: np.ndarray, groups: int, values: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums by group of some samples' values, or their numbers, where they are not 0; and which groups."""
    sums = np.bincount(group, values, minlength=groups)
    filled = np.flatnonzero(sums)
    return sums[filled].astype(np.float64), filled.astype(np.int32)
