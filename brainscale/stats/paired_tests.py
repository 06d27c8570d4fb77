"""Models against each other on the same samples: AUROCs by DeLong, calls by McNemar, p-values by Holm."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binom, norm

from brainscale.errors import UsageError
from brainscale.schema import PAIRS
from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.delong import delong_pair
from brainscale.stats.intervals import Z
from brainscale.stats.resampling import group_codes


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Samples on which one model is right and the other wrong."""

    only_a: int
    only_b: int
    p: float


EXACT = 20_000
"""Discordant samples up to which groups' signs are counted out; beyond, their sum is as good as normal."""


def mcnemar(right_a: np.ndarray, right_b: np.ndarray, codes: np.ndarray | None = None) -> McNemar:
    """McNemar's exact test, two-sided, by group.

    If both models are as good, either might have made the other's calls on a patient: each group's difference (a's
    right calls less b's) has either sign with the same chance, and the sum of all is held against all signs. With
    groups of one that is the binomial test of the discordant samples (Q. McNemar, Psychometrika 12, 1947); with many
    groups, (Σd)² / Σd² against χ², the test of N. A. Obuchowski (Statistics in Medicine 17, 1998) but for her factor
    (K − 1) / K (Z. Yang, X. Sun and J. W. Hardin, Biometrical Journal 52, 2010).

    Args:
        right_a: bool [N], whether one model called each sample rightly.
        right_b: bool [N], the other.
        codes: int [N], number of each sample's group; each its own without them.
    """
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    each = only_a.astype(np.int64) - only_b
    if codes is not None:
        _, at = np.unique(codes, return_inverse=True)
        each = np.bincount(at, each).astype(np.int64)
    return McNemar(only_a=int(only_a.sum()), only_b=int(only_b.sum()), p=_of_signs(each))


def _of_signs(differences: np.ndarray) -> float:
    """Two-sided p of the sum of integers [K], had each its sign by a coin."""
    sizes, times = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) > 1 and sizes @ times > EXACT:
        return float(2 * norm.sf(abs(differences.sum()) / math.sqrt(sizes**2 @ times)))
    law = np.ones(1)  # chance that the positive ones sum to 0, 1, 2 …
    for size, count in zip(sizes.tolist(), times.tolist(), strict=True):
        spread = np.zeros(size * count + 1)
        spread[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        law = np.convolve(law, spread)
    positive = int(differences.clip(0).sum())
    tail = law[: min(positive, len(law) - 1 - positive) + 1].sum()
    return min(1.0, 2 * float(tail))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number (S. Holm, Scandinavian Journal of Statistics 6, 1979).

    A test that gave none has none, and does not count.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = highest
    return adjusted


def paired_tests(
    models: Mapping[str, np.ndarray],
    labels: np.ndarray,
    thresholds: Mapping[str, float],
    groups: Sequence[Any] | None = None,
) -> pa.Table:
    """Every pair of models on the same samples.

    Args:
        models: name → probabilities [N, classes], the samples in the same order.
        labels: int [N], class indices; 0 is the class without a tumour.
        thresholds: name → operating threshold, where there are two classes.
        groups: [N], patient or group of duplicates, which both tests take into account.

    Returns:
        A table of schema PAIRS, in the models' order.

    Raises:
        UsageError: fewer than two models, or not the same samples.
    """
    labels = np.asarray(labels, np.int64)
    if len(models) < 2:
        raise UsageError("a comparison needs two models or more")
    strange = next((name for name, p in models.items() if len(p) != len(labels)), None)
    if strange is not None:
        raise UsageError(f"{strange} has {len(models[strange])} predictions for {len(labels)} samples")
    codes = None if groups is None else group_codes(groups)
    rows = [_row(a, b, models, labels, thresholds, codes) for a, b in itertools.combinations(models, 2)]
    for name in ("p", "mcnemar_p"):
        for row, p in zip(rows, holm([row[name] for row in rows]), strict=True):
            row[f"{name}_holm"] = p
    return pa.Table.from_pylist(rows, schema=PAIRS)


def _row(
    a: str,
    b: str,
    models: Mapping[str, np.ndarray],
    labels: np.ndarray,
    thresholds: Mapping[str, float],
    codes: np.ndarray | None,
) -> dict[str, Any]:
    right_a, right_b = (predicted_classes(models[name], thresholds[name]) == labels for name in (a, b))
    test = mcnemar(right_a, right_b, codes)
    counts = {"only_a": test.only_a, "only_b": test.only_b, "mcnemar_p": test.p}
    return {"a": a, "b": b, "n": len(labels), **counts, **_areas(models[a], models[b], labels > 0, codes)}


def _areas(a: np.ndarray, b: np.ndarray, sick: np.ndarray, codes: np.ndarray | None) -> dict[str, Any]:
    """DeLong's columns of one row."""
    nothing = {"p": None}
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return {**nothing, "reason": "a probability is not a finite number"}
    if sick.all() or not sick.any():
        return {**nothing, "reason": "only one of the two sides has samples"}
    pair = delong_pair(tumour_probability(a), tumour_probability(b), sick, codes)
    figures = {"auroc_a": pair.area_a, "auroc_b": pair.area_b, "difference": pair.difference, "p": pair.p}
    if math.isnan(pair.variance):
        return {**figures, "reason": "no interval: a class has one sample, or one group"}
    if pair.variance == 0:
        return {**figures, "reason": "no interval: the areas differ alike for every sample"}
    half = Z * math.sqrt(pair.variance)
    return {**figures, "low": max(-1.0, pair.difference - half), "high": min(1.0, pair.difference + half)}
