"""How far a faster computation of the same probabilities may differ from the exact one, checked on labelled samples."""

from dataclasses import dataclass

import numpy as np

from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.intervals import wilson
from brainscale.stats.weighted_metrics import auroc_and_average_precision

MAX_AUROC_DIFFERENCE = 0.002
MAX_CHANGED_SHARE = 0.02
"""What the upper end of Wilson's 95 % interval of the share of changed predictions must not exceed."""
MIN_SAMPLES = 20
"""Fewest samples that anything is checked on."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two computations of the probabilities of the same samples agree.

    Attributes:
        samples: number of samples.
        auroc_exact: AUROC of a tumour by the exact probabilities; NaN without samples of both kinds.
        auroc_fast: the same, by the fast ones.
        changed: number of samples with another predicted class.
        changed_bound: upper end of Wilson's 95 % interval of their share.
        largest_change: largest difference between two probabilities of a class.
    """

    samples: int
    auroc_exact: float
    auroc_fast: float
    changed: int
    changed_bound: float
    largest_change: float


def measure_agreement(labels: np.ndarray, exact: np.ndarray, fast: np.ndarray, threshold: float) -> Agreement:
    """Compare the probabilities of two computations.

    Args:
        labels: class index of each sample [n ≥ 1]; 0 is the class without a tumour.
        exact: float [n, classes].
        fast: float [n, classes].
        threshold: probability of a tumour from which on one is predicted.
    """
    changed = int((predicted_classes(exact, threshold) != predicted_classes(fast, threshold)).sum())
    aurocs = [auroc_and_average_precision(labels > 0, tumour_probability(each))[0] for each in (exact, fast)]
    return Agreement(
        samples=len(labels),
        auroc_exact=aurocs[0],
        auroc_fast=aurocs[1],
        changed=changed,
        changed_bound=wilson(changed, len(labels))[1],
        largest_change=float(np.abs(exact.astype(np.float64) - fast).max()),
    )


def find_objection(agreement: Agreement) -> str | None:
    """Return why the fast computation cannot stand for the exact one; None where it can.

    With so few samples that even no changed prediction leaves the bound above `MAX_CHANGED_SHARE`, none may change.
    """
    if agreement.samples < MIN_SAMPLES:
        return f"it cannot be checked on {agreement.samples} samples, {MIN_SAMPLES} are needed"
    if not np.isfinite([agreement.auroc_exact]).all():
        return "it cannot be checked, as all samples are of one kind"
    if not np.isfinite([agreement.auroc_fast, agreement.largest_change]).all():
        return "some probabilities are not a number"
    if abs(agreement.auroc_fast - agreement.auroc_exact) > MAX_AUROC_DIFFERENCE:
        return (
            f"the AUROC is {agreement.auroc_fast:.4f} instead of {agreement.auroc_exact:.4f}, and may differ by "
            f"{MAX_AUROC_DIFFERENCE}"
        )
    if agreement.changed and agreement.changed_bound > MAX_CHANGED_SHARE:
        return (
            f"{agreement.changed} of {agreement.samples} predictions change: up to {agreement.changed_bound:.1%} of "
            f"all predictions (95 % interval), and {MAX_CHANGED_SHARE:.0%} may"
        )
    return None
