"""Models compared on the same samples: AUROCs by DeLong, predictions by McNemar, p-values by Holm."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import gammaln, ndtr  # scipy.stats loads for half a second

from brainscale.errors import UsageError
from brainscale.schema import PAIRS
from brainscale.stats.delong import delong_pair
from brainscale.stats.estimate import NOT_FINITE, ONE_SAMPLE, Estimate, name_method
from brainscale.stats.intervals import Z
from brainscale.stats.labelled import Floats, Ints, LabelledProbabilities
from brainscale.stats.metrics import estimate_auroc

ALL: Mapping[str, Ints] = MappingProxyType({})
"""No model that has only some of the samples."""


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's test of two models.

    Attributes:
        only_a: number of samples that a alone classified correctly.
        only_b: number of samples that b alone classified correctly.
        p: two-sided p-value.
    """

    only_a: int
    only_b: int
    p: float


EXACT = 20_000
"""Discordant samples up to which groups' signs are counted out; beyond, their sum is as good as normal."""


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray, codes: np.ndarray | None = None) -> McNemar:
    """Run McNemar's exact test, two-sided, by group.

    If both models are as good, either might have made the other's predictions on a patient: each group's difference
    (a's correct ones less b's) has either sign with the same chance, and the sum of all is held against all signs. With
    groups of one that is the binomial test of the discordant samples (Q. McNemar, Psychometrika 12, 1947); with many
    groups, (Σd)² / Σd² against χ², the test of N. A. Obuchowski (Statistics in Medicine 17, 1998) but for her factor
    (K − 1) / K (Z. Yang, X. Sun and J. W. Hardin, Biometrical Journal 52, 2010).

    Args:
        correct_a: bool [n], whether one model classified each sample correctly.
        correct_b: bool [n], whether the other did.
        codes: int [n], number of each sample's group; each its own without them.
    """
    only_a, only_b = correct_a & ~correct_b, correct_b & ~correct_a
    differences = only_a.astype(np.int64) - only_b
    if codes is not None:
        _, group = np.unique(codes, return_inverse=True)
        differences = np.bincount(group, differences).astype(np.int64)
    return McNemar(only_a=int(only_a.sum()), only_b=int(only_b.sum()), p=_p_of_signs(differences))


def _p_of_signs(differences: np.ndarray) -> float:
    """Return the two-sided p of the sum of integers [K], had each its sign by a coin."""
    sizes, times = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) > 1 and sizes @ times > EXACT:
        return float(2 * ndtr(-abs(differences.sum()) / math.sqrt(sizes**2 @ times)))
    distribution = np.ones(1)  # probability that the positive ones sum to 0, 1, 2 …
    for size, count in zip(sizes.tolist(), times.tolist(), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = _coin_probabilities(count)
        distribution = np.convolve(distribution, spread)
    positive = int(differences.clip(0).sum())
    tail = distribution[: min(positive, len(distribution) - 1 - positive) + 1].sum()
    return min(1.0, 2 * float(tail))


def _coin_probabilities(count: int) -> np.ndarray:
    """Return the probabilities of 0, 1, … heads of so many coins, float64 [count + 1]."""
    heads = np.arange(count + 1)
    logarithms = gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1) - count * math.log(2)
    return np.asarray(np.exp(logarithms))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    A test that gave none has none, and does not count.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    ascending = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, i) in enumerate(ascending):
        highest = max(highest, min(1.0, (len(ascending) - rank) * p))
        adjusted[i] = highest
    return adjusted


def paired_tests(models: Mapping[str, LabelledProbabilities], some: Mapping[str, Ints] = ALL) -> pa.Table:
    """Test every pair of models on the same samples.

    Args:
        models: name → labels and probabilities of the same samples in the same order. Both tests take the groups into
            account.
        some: name → indices of the samples of the first model that a model has, int64; it is tested on these. At most
            one model has not all of them.

    Returns:
        A table of schema PAIRS, in the models' order.

    Raises:
        UsageError: fewer than two models, or not the same samples.
    """
    if len(models) < 2:
        raise UsageError("a comparison needs two models or more")
    first = next(iter(models.values()))
    for name, samples in models.items():
        labels = first.labels[some[name]] if name in some else first.labels
        if len(samples) != len(labels):
            raise UsageError(f"{name} has {len(samples)} predictions for {len(labels)} samples")
        if not np.array_equal(samples.labels, labels):
            raise UsageError(f"{name} has other labels than the first model: give the same samples in the same order")
    fewer = {
        name: samples if name in some else samples.take(rows)
        for rows in some.values()
        for name, samples in models.items()
    }
    rows = [_row(a, b, fewer if {a, b} & some.keys() else models) for a, b in itertools.combinations(models, 2)]
    for name in ("p", "mcnemar_p"):
        for row, p in zip(rows, holm([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = p
    return pa.Table.from_pylist(rows, schema=PAIRS)


@dataclass(frozen=True, kw_only=True)
class ControlComparison:
    """AUROCs of a model and of a control on the same samples: tumour against none.

    Attributes:
        model: AUROC of the model.
        control: AUROC of the control.
        difference: the first less the second, with DeLong's interval by group.
        p: p-value of DeLong's test, two-sided.
    """

    model: Estimate
    control: Estimate
    difference: Estimate
    p: float | None


def compare_with_control(samples: LabelledProbabilities, tumour_probability: Floats) -> ControlComparison:
    """Compare the AUROC of a model with that of a control.

    Args:
        samples: labels and probabilities of the model.
        tumour_probability: float64 [n], the control's probability of a tumour of any kind.
    """
    model, control = (
        LabelledProbabilities(
            labels=samples.has_tumour.astype(np.int64),
            probabilities=np.stack([1 - tumour, tumour], 1),
            classes=("no tumour", "a tumour"),
            groups=samples.groups,
        )
        for tumour in (samples.tumour_probability, tumour_probability)
    )
    (pair,) = paired_tests({"model": model, "control": control}).to_pylist()
    low, high = pair["low"], pair["high"]
    method = None if low is None else name_method("DeLong", samples.codes)
    difference = Estimate(
        value=pair["difference"], low=low, high=high, method=method, n=pair["n"], reason=pair["reason"]
    )
    return ControlComparison(
        model=estimate_auroc(model), control=estimate_auroc(control), difference=difference, p=pair["p"]
    )


def _row(a: str, b: str, models: Mapping[str, LabelledProbabilities]) -> dict[str, Any]:
    correct_a, correct_b = (models[name].predicted == models[name].labels for name in (a, b))
    test = mcnemar(correct_a, correct_b, models[a].codes)
    counts = {"only_a": test.only_a, "only_b": test.only_b, "mcnemar_p": test.p}
    return {"a": a, "b": b, "n": len(models[a]), **counts, **_aurocs(models[a], models[b])}


def _aurocs(a: LabelledProbabilities, b: LabelledProbabilities) -> dict[str, Any]:
    """Return DeLong's columns of one row."""
    if a.not_finite or b.not_finite:
        return {"p": None, "reason": NOT_FINITE}
    if a.has_tumour.all() or not a.has_tumour.any():
        return {"p": None, "reason": "all samples have a tumour, or none has"}
    pair = delong_pair(a.tumour_probability, b.tumour_probability, a.has_tumour, a.codes)
    columns = {"auroc_a": pair.auroc_a, "auroc_b": pair.auroc_b, "difference": pair.difference, "p": pair.p}
    if math.isnan(pair.variance):
        return {**columns, "reason": ONE_SAMPLE}
    if pair.variance == 0:
        return {**columns, "reason": "no interval: the AUROCs differ by the same amount for every sample"}
    half = Z * math.sqrt(pair.variance)
    return {**columns, "low": max(-1.0, pair.difference - half), "high": min(1.0, pair.difference + half)}
