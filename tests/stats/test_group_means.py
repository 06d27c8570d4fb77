"""The mean of samples in groups: its interval holds the truth as often as it promises."""

import numpy as np
import pytest

from brainscale.stats.estimate import ONE_SAMPLE
from brainscale.stats.group_means import estimate_mean


def test_without_groups_it_is_students_interval() -> None:
    estimate = estimate_mean(np.array([1.0, 2.0, 3.0, 6.0]), np.arange(4))
    half = 3.182446 * np.std([1, 2, 3, 6], ddof=1) / 2
    assert estimate.value == 3
    assert estimate.low == pytest.approx(3 - half)
    assert estimate.high == pytest.approx(3 + half)
    assert (estimate.n, estimate.method) == (4, "t interval")


def test_copies_within_groups_tell_nothing_new() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])
    once, thrice = estimate_mean(values, np.arange(4)), estimate_mean(np.repeat(values, 3), np.repeat(np.arange(4), 3))
    assert thrice.low == pytest.approx(once.low)
    assert thrice.high == pytest.approx(once.high)
    assert thrice.method == "t interval by group"


def test_one_group_has_no_interval() -> None:
    estimate = estimate_mean(np.array([1.0, 2.0]), np.zeros(2, int))
    assert (estimate.value, estimate.low, estimate.reason) == (1.5, None, ONE_SAMPLE)


def test_the_interval_holds_the_truth_in_95_of_100_studies() -> None:
    generator = np.random.default_rng(0)
    codes = np.repeat(np.arange(20), generator.integers(1, 6, 20))
    held = 0
    for _ in range(1000):
        values = generator.normal(size=20)[codes] + generator.normal(size=len(codes))
        estimate = estimate_mean(values, codes)
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low <= 0 <= estimate.high
    assert 0.925 < held / 1000 < 0.975
