"""Metrics over repetitions: against the plain ones, what repetitions add, coverage, and p-values that fit intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.errors import UsageError
from brainscale.stats.intervals import bca_levels
from brainscale.stats.repeated_folds import (
    METRICS,
    REDRAWN,
    UNDEFINED,
    RepeatedPredictions,
    compare_repeated,
    estimate_repeated,
    p_value,
)
from brainscale.stats.resampling import percentiles
from tests.support.samples import LONG, estimates, two_columns


def repeated(
    seed: int = 0, n: int = 60, repetitions: int = 1, folds: int = 1, shift: float = 1.5, noise: float = 0.3
) -> RepeatedPredictions:
    """Predictions of the same samples, two to a group, whose scores differ a little between repetitions."""
    draw = np.random.default_rng(seed)
    has_tumour = np.arange(n) // 2 % 2 == 1
    centre = draw.normal(size=n // 2).repeat(2) + shift * (has_tumour - 0.5)
    scores = 1 / (1 + np.exp(-np.concatenate([centre + noise * draw.normal(size=n) for _ in range(repetitions)])))
    return RepeatedPredictions(
        has_tumour=np.tile(has_tumour, repetitions),
        scores=scores,
        predicted=scores >= 0.5,
        groups=np.tile([f"g{i // 2}" for i in range(n)], repetitions),
        repetitions=np.repeat(np.arange(repetitions), n),
        folds=np.tile(np.arange(n) // 4 % folds, repetitions),
    )


def test_one_repetition_without_folds_has_the_metrics_of_its_samples() -> None:
    rows = repeated()
    plain = estimates(rows.has_tumour.astype(int), two_columns(rows.scores), groups=rows.groups.tolist())
    for name, estimate in estimate_repeated(rows).items():
        assert estimate.value == pytest.approx(plain[name].value), name
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high


def test_rankings_are_computed_within_folds_and_metrics_within_repetitions() -> None:
    rows = repeated(repetitions=2, folds=3)
    shifted = RepeatedPredictions(**{**vars(rows), "scores": rows.scores / (1 + rows.folds) / (1 + rows.repetitions)})
    assert estimate_repeated(rows)["auroc"] == estimate_repeated(shifted)["auroc"]
    halves = [estimate_repeated(rows.take(rows.repetitions == number)) for number in rows.numbers]
    for name, estimate in estimate_repeated(rows).items():
        assert estimate.value == pytest.approx(np.mean([half[name].value for half in halves])), name


def test_a_repetition_is_no_new_sample() -> None:
    """The same predictions twice give the same interval, not one that is narrower."""
    once = repeated()
    twice = RepeatedPredictions(
        **{
            name: np.arange(2).repeat(len(once)) if name == "repetitions" else np.tile(values, 2)
            for name, values in vars(once).items()
        }
    )
    for name in METRICS:
        one, two = estimate_repeated(once)[name], estimate_repeated(twice)[name]
        assert (one.low, one.high) == pytest.approx((two.low, two.high)), name


def test_many_repetitions_are_drawn_too_which_widens_the_interval_where_they_differ() -> None:
    rows = repeated(repetitions=REDRAWN, noise=0.0)
    offset = np.linspace(-0.3, 0.3, REDRAWN)[rows.repetitions]
    unlike = RepeatedPredictions(**{**vars(rows), "predicted": rows.scores + offset >= 0.5})
    fewer = unlike.take(np.isin(unlike.repetitions, [0, REDRAWN - 1]))
    many, few = estimate_repeated(unlike)["sensitivity"], estimate_repeated(fewer)["sensitivity"]
    assert many.method == "bootstrap of groups and repetitions"
    assert few.method == "bootstrap of groups"
    assert many.high - many.low > few.high - few.low  # type: ignore[operator]


def test_a_difference_is_over_the_folds_that_both_have() -> None:
    rows = repeated(repetitions=3, folds=2)
    better = RepeatedPredictions(**{**vars(rows), "predicted": rows.has_tumour})
    fewer = better.take((rows.repetitions == 1) & (rows.folds == 0))
    expected = estimate_repeated(rows.take((rows.repetitions == 1) & (rows.folds == 0)))["accuracy"].value
    assert compare_repeated(fewer, rows)["accuracy"].value == pytest.approx(1 - expected)  # type: ignore[operator]
    assert compare_repeated(rows, fewer)["accuracy"].value == pytest.approx(expected - 1)  # type: ignore[operator]
    with pytest.raises(UsageError, match="without a fold in common"):
        compare_repeated(rows.take(rows.folds == 0), rows.take(rows.folds == 1))


def test_a_row_does_not_differ_from_itself() -> None:
    rows = repeated(repetitions=2)
    for difference in compare_repeated(rows, rows).values():
        assert difference.value == 0
        assert difference.p is None


def test_a_fold_without_a_class_has_no_ranking_but_the_rest() -> None:
    rows = repeated()
    without = rows.take(~(rows.has_tumour & (np.arange(len(rows)) < 30)))
    folds = RepeatedPredictions(**{**vars(without), "folds": (np.arange(len(without)) >= 15).astype(int)})
    measured = estimate_repeated(folds)
    assert measured["auroc"].reason == UNDEFINED
    assert measured["accuracy"].value is not None


def test_no_predictions_are_refused() -> None:
    with pytest.raises(UsageError, match="no predictions"):
        repeated().take(np.zeros(60, bool))


@given(st.integers(0, 2**32), st.floats(-0.3, 0.3), st.integers(10, 200))
def test_a_p_value_below_5_percent_is_an_interval_without_0(seed: int, mean: float, size: int) -> None:
    draw = np.random.default_rng(seed)
    value = mean + 0.1 * draw.normal()
    draws, left_out = value + 0.1 * draw.gamma(2, size=999) - 0.2, value + 0.01 * draw.gamma(1, size=size)
    low, high = percentiles(draws, *bca_levels(value, draws, left_out, size))
    p = p_value(value, draws, left_out, size)
    assert 0 <= p <= 1
    if abs(p - 0.05) > 0.01:
        assert (p < 0.05) == (low > 0 or high < 0)


def test_intervals_cover_and_tests_keep_their_level() -> None:
    """Normal scores with a known AUROC, two samples a group: the long form has ten times as many."""
    count, truth, covered, rejected = (400 if LONG else 40), 0.8556, 0, 0
    for seed in range(count):
        one, other = (repeated(10_000 * k + seed, n=120, repetitions=2, noise=0.0) for k in (1, 2))
        auroc = estimate_repeated(one)["auroc"]
        covered += auroc.low <= truth <= auroc.high  # type: ignore[operator]
        p = compare_repeated(one, other)["auroc"].p
        rejected += p is not None and p < 0.05
    assert covered >= (0.92 if LONG else 0.85) * count
    assert rejected <= (0.08 if LONG else 0.15) * count
