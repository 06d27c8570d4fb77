"""Thresholds that reach a target with a stated confidence: exact for independent samples, measured for groups."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from brainscale.errors import ManifestError, UsageError
from brainscale.stats.threshold_bounds import (
    TargetBound,
    independent_samples,
    lower_bounds,
    threshold_for_target,
)
from tests.support.samples import LONG

STUDIES = 2000 if LONG else 400


def choose(labels: Any, scores: Any, target: float = 0.95, metric: Any = "sensitivity", **options: Any) -> Any:
    arguments = {"confidence": 0.9, **options}
    return threshold_for_target(np.asarray(labels), np.asarray(scores, float), metric, target, **arguments)


@given(st.integers(1, 300), st.floats(0.5, 0.99), st.floats(0.5, 0.999))
@settings(max_examples=100 if LONG else 40)
def test_the_bound_is_that_of_clopper_and_pearson(n: int, confidence: float, share: float) -> None:
    """At the bound, as many successes or more have exactly the chance 1 − confidence."""
    successes = max(1, round(share * n))
    (bound,) = lower_bounds(np.array([successes / n]), n, confidence)
    assert binom.sf(successes - 1, n, bound) == pytest.approx(1 - confidence, rel=1e-6)


def test_by_hand() -> None:
    """Of 100 tumours one may be missed: at 5 %, one or none has a chance of 0.037, and two or fewer of 0.118."""
    scores = np.r_[0.001, np.arange(1, 101) / 200]
    threshold, bound = choose([0, *[1] * 100], scores)
    assert threshold == pytest.approx((0.005 + 0.010) / 2)
    assert (bound.observed, bound.is_reached, bound.missing_samples) == (0.99, True, 0)
    assert bound.describe() == (
        "highest threshold that reaches a sensitivity of 0.95 with 90 % confidence on 100 validation samples with a "
        "tumour (lower bound 0.9617, 0.9900 on validation)"
    )
    threshold, bound = choose([*[0] * 100, 1], np.r_[scores[1:], 0.9], metric="specificity")
    assert threshold == pytest.approx((0.495 + 0.5) / 2)
    assert (bound.observed, round(bound.lower_bound, 4)) == (0.99, 0.9617)
    assert bound.describe().startswith("lowest threshold that reaches a specificity of 0.95 with 90 % confidence")


@pytest.mark.parametrize(("tumours", "missing"), [(44, 1), (45, 0), (40, 5)])
def test_validation_that_is_too_small_says_by_how_many(tumours: int, missing: int) -> None:
    """0.95 ** 45 is below 0.1, 0.95 ** 44 is not."""
    labels = np.r_[np.zeros(10), np.ones(tumours)]
    threshold, bound = choose(labels, np.linspace(0.1, 0.9, len(labels)))
    assert bound.missing_samples == missing
    assert bound.is_reached == (missing == 0)
    assert bound.observed == 1
    assert bound.lower_bound == pytest.approx(0.1 ** (1 / tumours))
    if missing:
        assert f"cannot be promised, as validation has {missing} too few of them" in bound.describe()
    assert threshold == pytest.approx(0.1 + 0.8 * (9.5 / (len(labels) - 1)))


def test_nothing_promises_a_sensitivity_of_1() -> None:
    _, bound = choose([0, 1, 1], [0.1, 0.2, 0.3], 1.0)
    assert (bound.missing_samples, bound.is_reached) == (None, False)
    assert bound.describe().endswith("cannot be promised, as no number of samples can promise it")


def test_no_threshold_is_above_a_score_of_1() -> None:
    threshold, bound = choose([*[0] * 50, 1], np.r_[np.linspace(0, 0.9, 49), 1, 0.5], metric="specificity", target=0.9)
    assert threshold == pytest.approx(0.95)
    assert (bound.is_reached, bound.observed) == (True, 0.98)
    threshold, bound = choose([*[0] * 50, 1], np.r_[np.ones(50), 0.5], metric="specificity", target=0.9)
    assert 0.5 < threshold <= 1
    assert (bound.observed, bound.lower_bound) == (0.0, 0.0)
    assert bound.describe().endswith("cannot be promised, as too many of them have a score of 1")
    threshold, bound = choose([0, 0, 1], [0.2, 0.6, 0.5], metric="specificity", target=0.5)
    assert 0.6 < threshold < 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=80), st.floats(0.01, 1))
@settings(max_examples=200 if LONG else 60)
def test_a_higher_threshold_would_not_reach_it(pairs: list[tuple[bool, int]], target: float) -> None:
    labels, scores = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]) / 20
    if labels.all() or not labels.any():
        return
    threshold, bound = choose(labels, scores, target)
    own = scores[labels]
    assert bound.observed == (own >= threshold).mean()
    if bound.is_reached:
        higher = (own > own[own >= threshold].min()).mean()  # the next cut up
        assert lower_bounds(np.array([higher]), len(own), 0.9)[0] < target
    else:
        assert bound.observed == 1


def test_what_is_no_target() -> None:
    for target in (0, -0.1, 1.01, np.nan):
        with pytest.raises(UsageError, match="cannot be a target"):
            choose([0, 1], [0.2, 0.3], target)
    with pytest.raises(ManifestError, match="both classes: there is none without a tumour"):
        choose([1, 1], [0.2, 0.3])


def test_samples_in_groups_are_worth_fewer() -> None:
    draw = np.random.default_rng(0)
    codes, alone = np.repeat(np.arange(60), 5), draw.normal(size=300)
    assert independent_samples(alone, np.arange(300), 0.9) == 300
    assert independent_samples(alone, codes, 0.9) > 250
    assert independent_samples(np.repeat(draw.normal(size=60), 5), codes, 0.9) == pytest.approx(59, abs=1.5)
    assert independent_samples(alone, np.zeros(300), 0.9) == 1
    _, bound = choose([0, *[1] * 300], np.r_[-9, np.repeat(draw.normal(size=60), 5)], codes=np.r_[99, codes])
    assert "on 300 validation samples with a tumour in 60 groups, worth" in bound.describe()


def share_below(
    draw: np.random.Generator, patients: int, slices: int, correlation: float, metric: str = "sensitivity"
) -> tuple[float, float]:
    """Share of simulated studies whose threshold is below the target on the population, and the mean sensitivity."""
    below, mean = 0, 0.0
    codes = np.repeat(np.arange(2 * patients), slices)
    labels = np.repeat(np.arange(2 * patients) < patients, slices)
    for _ in range(STUDIES):
        own = draw.normal(size=2 * patients)[codes] * np.sqrt(correlation)
        scores = own + draw.normal(size=len(codes)) * np.sqrt(1 - correlation) + 2 * labels
        threshold, bound = choose(labels, scores, 0.9, metric, codes=codes)
        assert isinstance(bound, TargetBound)
        true = norm.sf(threshold, loc=2) if metric == "sensitivity" else norm.cdf(threshold)
        below += true < 0.9
        mean += true / STUDIES
    return below / STUDIES, mean


@pytest.mark.parametrize(
    ("patients", "slices", "correlation"), [(60, 1, 0.0), (60, 5, 0.3), (60, 5, 0.8), (40, 10, 0.5), (30, 5, 0.5)]
)
def test_few_studies_are_below_the_target(patients: int, slices: int, correlation: float) -> None:
    """At most one in ten studies misses the sensitivity that was promised with 90 % confidence."""
    share, mean = share_below(np.random.default_rng(patients + slices), patients, slices, correlation)
    print(f"\n{patients} × {slices}, correlation {correlation}: {share:.3f} below, mean {mean:.3f}")  # noqa: T201
    assert binom.sf(share * STUDIES - 1, STUDIES, 0.1) > 0.001  # no more than chance makes of one in ten
