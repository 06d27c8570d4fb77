"""Calibration of probabilities: bins of the expected calibration error, calibration slope and intercept."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import Polynomial
from scipy.special import expit, logit

from brainscale.stats.resampling import rows_at_once
from brainscale.stats.weighted_metrics import CLIP

ECE_BINS = 15
ITERATIONS = 100
LONGEST = 2.0  # of one Newton step, in units of the standardised logit: full steps may fly off
SHORTEST = 1e-8  # a step under this ends the search
TINY = 1e-30  # instead of 0 below the line
ORDER, REACH = 5, 0.05
"""Order of the expansion of the residual, and how far from the samples' intercept it is used: (REACH / π)^6 < 2e-11."""


def calibration_bins(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each probability, int64 [n]: 15 of equal width (C. Guo et al., ICML 2017)."""
    return np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recalibration:
    """Logistic regressions of the label on the probability's logit, for resamples of whole groups.

    Attributes:
        has_tumour: bool [n].
        logits: float64 [n], of the probability of a tumour, at least `CLIP` from 0 and 1.
        group: int [n], number 0 … G − 1 of each sample's group.
    """

    has_tumour: np.ndarray
    logits: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, has_tumour: np.ndarray, probability: np.ndarray, group: np.ndarray | None = None) -> "Recalibration":
        """Return the regressions of samples; each is its own group without `group`."""
        logits = logit(np.clip(probability, CLIP, 1 - CLIP))
        return cls(has_tumour=has_tumour, logits=logits, group=np.arange(len(logits)) if group is None else group)

    def slopes(self, weights: np.ndarray) -> np.ndarray:
        """Return the calibration slope [R], the intercept free.

        1 when calibrated, below 1 when overconfident (D. R. Cox, Biometrika 45, 1958). ±infinity where the logits
        separate the classes; NaN where a class has no sample or all logits are equal.

        Args:
            weights: [R, G], how often each resample holds each group.
        """
        slopes, (_, scale) = self._separated(weights), self._standard
        fit = np.flatnonzero(slopes == 0)
        if len(fit):
            slopes[fit] = self._fit(weights[fit], self._own_fit, joint=True)[:, 1] / scale
        return slopes

    def intercepts(self, weights: np.ndarray, terms: np.ndarray, has_both: np.ndarray) -> np.ndarray:
        """Return the calibration intercept [R], the slope fixed at 1: calibration in the large.

        0 when the mean probability is right, above 0 when tumours are more frequent.

        Args:
            weights: [R, G], how often each resample holds each group.
            terms: float64 [R, ORDER + 1], the resamples' sums of `residual_terms`.
            has_both: bool [R], whether there are samples with a tumour and without; the others have no intercept.
        """
        intercepts = np.where(has_both, _root(terms), np.nan)
        far = np.flatnonzero(np.abs(intercepts) > REACH)
        intercepts += self.own_intercept
        intercepts[far] = self._fit(weights[far], np.array([self.own_intercept, 0]), joint=False)[:, 0]
        return intercepts

    @cached_property
    def own_intercept(self) -> float:
        """The intercept of the samples as they are; 0 where a class has none."""
        if self.has_tumour.all() or not self.has_tumour.any():
            return 0.0
        return float(self._newton(np.ones((1, len(self.logits))), np.zeros((1, 2)), joint=False)[0, 0])

    def residual_terms(self) -> Iterator[np.ndarray]:
        """Yield what the residual, label − P, is a power series of: ORDER + 1 times float64 [n].

        A resample's residual at the intercept a beyond `own_intercept` is its sum of term 0 less Σ term k · a^k. P's
        Taylor series converges within π, whatever the logit.
        """
        p = expit(self.logits + self.own_intercept)
        yield self.has_tumour - p
        derivative, factorial = Polynomial([0, 1]), 1
        for k in range(1, ORDER + 1):
            derivative, factorial = derivative.deriv() * Polynomial([0, 1, -1]), factorial * k
            yield derivative(p) / factorial

    @cached_property
    def _standard(self) -> tuple[np.ndarray, float]:
        """The logits with mean 0 and standard deviation 1, and their standard deviation."""
        scale = float(self.logits.std()) or 1.0
        return (self.logits - self.logits.mean()) / scale, scale

    @cached_property
    def _ends_of_groups(self) -> np.ndarray:
        """Lowest and highest logit of each group's samples with a tumour and without: float64 [2, 2, G]."""
        ends = np.full((2, 2, int(self.group.max()) + 1), np.inf)
        for of_class, rows in zip(ends, (self.has_tumour, ~self.has_tumour), strict=True):
            np.minimum.at(of_class[0], self.group[rows], self.logits[rows])
            np.minimum.at(of_class[1], self.group[rows], -self.logits[rows])
        ends[:, 1] *= -1
        return ends

    def _ends(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the lowest and the highest logit [R] of samples with a tumour, and of those without."""
        is_drawn = weights > 0
        return [
            (np.where(is_drawn, lowest, np.inf).min(1), np.where(is_drawn, highest, -np.inf).max(1))
            for lowest, highest in self._ends_of_groups
        ]

    def _separated(self, weights: np.ndarray) -> np.ndarray:
        """Return ±inf [R] where the logits separate the classes, NaN where nothing can be fitted, 0 for a fit."""
        (low_p, high_p), (low_n, high_n) = self._ends(weights)
        result = np.where(low_p >= high_n, np.inf, np.where(low_n >= high_p, -np.inf, 0.0))
        constant = np.maximum(high_p, high_n) == np.minimum(low_p, low_n)
        return np.where(constant | np.isinf(low_p) | np.isinf(low_n), np.nan, result)

    @cached_property
    def _own_fit(self) -> np.ndarray:
        """Intercept and slope [2] of the samples as they are, of the standardised logit."""
        fits = self._newton(np.ones((1, len(self.logits))), np.zeros((1, 2)), joint=True)
        return np.asarray(np.nan_to_num(fits)[0])

    def _fit(self, weights: np.ndarray, start: np.ndarray, *, joint: bool) -> np.ndarray:
        """Return intercept and slope [R, 2], searched from a start [2], by batches."""
        fits, rows = np.empty((len(weights), 2)), rows_at_once(len(self.group))
        for i in range(0, len(weights), rows):
            batch = weights[i : i + rows].take(self.group, 1)
            fits[i : i + rows] = self._newton(batch, np.tile(start, (len(batch), 1)), joint=joint)
        return fits

    def _newton(self, weights: np.ndarray, start: np.ndarray, *, joint: bool) -> np.ndarray:
        """Return intercept and slope [R, 2] by Newton's method; NaN where the search did not end.

        Args:
            weights: [R, n]; those that have converged drop out.
            start: float64 [R, 2].
            joint: whether slope and intercept are free, of the standardised logit; else the intercept alone.
        """
        x, offset = (self._standard[0], 0.0) if joint else (0.0, self.logits)
        current, converged = start.copy(), np.full(start.shape, np.nan)
        active = np.arange(len(weights))
        for _ in range(ITERATIONS):
            if not len(active):
                break
            predictor = offset + current[active, :1] + current[active, 1:] * x
            step = _step(weights if len(active) == len(weights) else weights[active], self.has_tumour, x, predictor)
            current[active] += step
            done = np.abs(step).max(1) < SHORTEST
            converged[active[done]] = current[active[done]]
            active = active[~done]
        return converged


def _step(weights: np.ndarray, has_tumour: np.ndarray, x: np.ndarray | float, predictor: np.ndarray) -> np.ndarray:
    """Return one Newton step [R, 2], no longer than LONGEST; of the intercept alone where x is a number."""
    p = expit(predictor, out=predictor)
    residual = has_tumour - p
    residual *= weights
    curvature = p * weights
    p -= 1
    curvature *= p
    g0, h0 = residual.sum(1), np.maximum(-curvature.sum(1), TINY)
    if isinstance(x, float):
        return np.stack([np.clip(g0 / h0, -LONGEST, LONGEST), np.zeros(len(g0))], 1)
    g1 = np.multiply(residual, x, out=residual).sum(1)
    h1 = -np.multiply(curvature, x, out=curvature).sum(1)
    h2 = -np.multiply(curvature, x, out=curvature).sum(1)
    determinant = np.maximum(h0 * h2 - h1**2, TINY)
    step = np.stack([h2 * g0 - h1 * g1, h0 * g1 - h1 * g0], 1) / determinant[:, None]
    length = np.abs(step).max(1, keepdims=True)
    return np.asarray(step * LONGEST / np.maximum(length, LONGEST))


def _root(terms: np.ndarray) -> np.ndarray:
    """Return where a power series, term 0 less Σ term k · a^k, is 0, by Newton's method from 0: float64 [R].

    Where the search leaves `REACH`, the value is beyond it too.
    """
    powers = np.arange(1, ORDER + 1)
    root = np.zeros(len(terms))
    for _ in range(ITERATIONS):
        power = root[:, None] ** powers
        residual = terms[:, 0] - (terms[:, 1:] * power).sum(1)
        slope = terms[:, 1] + (terms[:, 2:] * powers[1:] * power[:, :-1]).sum(1)
        step = np.where(np.abs(root) > REACH, 0.0, residual / np.maximum(slope, TINY))
        root = root + step
        if (np.abs(step) < SHORTEST / 1000).all():
            break
    return root
