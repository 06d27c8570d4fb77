from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.stats import delong, intervals, resampling
from brainscale.stats.resampling import draw_groups
from tests.support.samples import LONG, labelled, two_columns


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [  # R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_as_published(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert intervals.wilson(successes, n) == pytest.approx(expected, abs=5e-5)


def test_wilson_of_the_published_densenet() -> None:
    assert intervals.wilson(47, 50) == pytest.approx((0.838, 0.979), abs=5e-4)


def brute_force(a: np.ndarray, b: np.ndarray, has_tumour: np.ndarray) -> tuple[float, float]:
    """Difference of two AUROCs and its variance by the definition, pair by pair, with its covariance."""
    areas, of_positive, of_negative = [], [], []
    for scores in (a, b):
        positive, negative = scores[has_tumour][:, None], scores[~has_tumour]
        wins = (positive > negative) + 0.5 * (positive == negative)
        areas.append(wins.mean())
        of_positive.append(wins.mean(1))
        of_negative.append(wins.mean(0))
    m, n = has_tumour.sum(), (~has_tumour).sum()
    covariance = np.cov(of_positive) / m + np.cov(of_negative) / n
    return areas[0] - areas[1], covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


def delong_of(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    scores = np.concatenate([positive, negative])
    return delong.delong(scores, np.arange(len(scores)) < len(positive))


def test_delong_by_hand() -> None:
    generator = np.random.default_rng(0)
    positive, negative = generator.integers(3, 12, 17) / 10, generator.integers(0, 9, 11) / 10
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = wins.mean(1).var(ddof=1) / 17 + wins.mean(0).var(ddof=1) / 11
    assert delong_of(positive, negative) == pytest.approx((wins.mean(), variance))


def test_delong_pair_by_hand_on_random_cases() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200 if LONG else 50):
        n = int(generator.integers(6, 60))
        has_tumour = np.arange(n) < generator.integers(2, n - 1)
        a, b = (generator.integers(0, 12, n) + 3 * has_tumour * generator.integers(0, 2) for _ in range(2))
        pair = delong.delong_pair(a, b, has_tumour)
        assert (pair.difference, pair.variance) == pytest.approx(brute_force(a, b, has_tumour))


HANLEY = {"normal": (33, 6, 6, 11, 2), "abnormal": (3, 2, 2, 11, 33)}
"""CT images of 58 normal and 51 abnormal heads in five ratings (Hanley and McNeil, Radiology 143, 1982)."""


def test_delong_as_published_for_hanley_and_mcneil() -> None:
    """Area 0.893 (the paper); DeLong's standard error 0.0307 and interval (Stata's manual, roctab)."""
    normal, abnormal = (np.repeat(np.arange(5), HANLEY[name]) for name in ("normal", "abnormal"))
    area, variance = delong_of(abnormal, normal)
    error = variance**0.5
    assert (area, error) == pytest.approx((0.8932, 0.0307), abs=5e-5)
    assert (area - intervals.Z * error, area + intervals.Z * error) == pytest.approx((0.83295, 0.95339), abs=5e-6)


# 41 patients with a poor and 72 with a good outcome of subarachnoid haemorrhage (N. Turck et al., Intensive
# Care Medicine 36, 2010): WFNS grade, and rank of the blood's S100B.
WFNS = (
    "32455552521254425552525245441442255225555111151221221112121134141551124112212122111121211324214115422111312244111"
)
S100B = """8 5 11 7 25 30 28 2 19 4 2 23 21 27 30 15 30 30 30 2 30 17 0 4 13 30 15 30 3 15 8 5 6 13 30 9 30 18 30 30 25
8 9 5 1 26 12 5 5 1 3 1 4 6 2 12 2 6 8 12 1 11 9 20 4 29 26 11 2 24 26 6 3 4 3 1 8 5 9 10 1 1 4 1 4 3 11 4 3 19 6 16 2
5 18 2 1 14 22 5 10 3 9 5 2 1 12 10 26 12 10 29 27"""


def test_paired_delong_as_published_by_proc() -> None:
    """Values of pROC (X. Robin et al., BMC Bioinformatics 12, 2011), as its own tests state them."""
    grade, protein = np.array([int(c) for c in WFNS]), np.array([int(word) for word in S100B.split()])
    pair = delong.delong_pair(grade, protein, np.arange(113) < 41)
    assert (pair.auroc_a, pair.auroc_b) == pytest.approx((0.823678861788618, 0.731368563685637), abs=1e-14)
    assert pair.difference / pair.variance**0.5 == pytest.approx(2.20898359144091)
    assert pair.p == pytest.approx(0.0271757822291882)
    half = intervals.Z * pair.variance**0.5
    bounds = (pair.difference - half, pair.difference + half)
    assert bounds == pytest.approx((0.0104061769564846, 0.174214419249478))


def test_a_model_does_not_differ_from_itself() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    pair = delong.delong_pair(scores, scores * 2, np.array([0, 0, 1, 1]))
    assert (pair.difference, pair.variance, pair.p) == (0, 0, 1)


def test_without_variance_a_difference_is_not_judged() -> None:
    pair = delong.delong_pair(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]))
    assert (pair.difference, pair.variance, pair.p) == (1, 0, None)


def bootstrap_weights(groups: Sequence[object], resamples: int, seed: int) -> np.ndarray:
    """How often each sample is in each resample, whole groups drawn: int64 [resamples, n]."""
    codes = labelled(np.zeros(len(groups)), two_columns(np.zeros(len(groups))), groups=groups).codes
    batches = draw_groups(int(codes.max()) + 1, resamples, seed, width=len(codes))
    return np.concatenate([counts[:, codes] for counts in batches])


def test_groups_are_drawn_whole() -> None:
    weights = bootstrap_weights(["b", "a", "b", None, float("nan"), "a"], 500, 7)
    assert weights.shape == (500, 6)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 1], weights[:, 5])
    assert not np.array_equal(weights[:, 3], weights[:, 4])  # missing: each a group of its own
    assert (weights[:, [0, 1, 3, 4]].sum(1) == 4).all()  # as many groups as there are
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.15)


def test_draws_do_not_depend_on_the_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draw_groups(13, 40, 3, width=13)))
    monkeypatch.setattr(resampling, "CELLS", 13 * 7)
    batches = list(draw_groups(13, 40, 3, width=13))
    assert max(len(batch) for batch in batches) == 7
    assert np.array_equal(np.concatenate(batches), whole)
    assert not np.array_equal(np.concatenate(list(draw_groups(13, 40, 4, width=13))), whole)


def test_groups_of_one_are_the_bootstrap_of_samples() -> None:
    """Means of resamples spread as those of draws with replacement, and as theory says."""
    values = np.random.default_rng(0).normal(size=80)
    by_group = bootstrap_weights(range(80), 4000, 1) @ values / 80
    plain = values[np.random.default_rng(2).integers(0, 80, (4000, 80))].mean(1)
    width, plain_width = (np.subtract(*resampling.percentiles(d)[::-1]) for d in (by_group, plain))
    assert width == pytest.approx(plain_width, rel=0.08)
    assert width == pytest.approx(2 * intervals.Z * values.std() / 80**0.5, rel=0.08)


def test_duplicates_make_no_narrower_interval() -> None:
    """Four copies of each sample tell no more than one; only draws by group show it."""
    values = np.repeat(np.random.default_rng(0).normal(size=50), 4)
    groups = np.repeat(np.arange(50), 4)
    once, by_group, as_if_independent = (
        np.subtract(*resampling.percentiles(weights @ v / len(v))[::-1])
        for v, weights in (
            (values[::4], bootstrap_weights(range(50), 4000, 1)),
            (values, bootstrap_weights(groups.tolist(), 4000, 2)),
            (values, bootstrap_weights(range(200), 4000, 3)),
        )
    )
    assert by_group == pytest.approx(once, rel=0.08)
    assert as_if_independent == pytest.approx(once / 2, rel=0.08)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(np.inf), min_size=1, max_size=200))
@settings(max_examples=60 if LONG else 20)
def test_percentiles_are_draws_and_hold_the_middle(draws: list[float]) -> None:
    low, high = resampling.percentiles(np.array(draws))
    assert {low, high} <= set(draws)
    assert np.mean([low <= d <= high for d in draws]) >= 0.95


def test_groups_of_copies_are_worth_one_sample_each() -> None:
    generator = np.random.default_rng(1)
    labels, scores = np.arange(60) % 3 == 0, generator.random(60)
    once = delong.delong(scores, labels)
    copied = delong.delong(np.repeat(scores, 4), np.repeat(labels, 4), np.repeat(np.arange(60), 4))
    assert copied == pytest.approx(once)
    correct = generator.random(60) < 0.8
    size = intervals.effective_size(np.repeat(correct, 4), np.repeat(np.arange(60), 4))
    assert size == pytest.approx(59)  # a group's variance is estimated with one degree of freedom less
    assert intervals.effective_size(correct, np.arange(60)) == 60
    assert intervals.effective_size(np.ones(8, bool), np.arange(8) // 2) == 4


def test_groups_with_both_classes() -> None:
    """A pair in each group, with and without a tumour, whose scores rise and fall together: a smaller variance."""
    generator = np.random.default_rng(2)
    level = np.repeat(generator.normal(size=300), 2)
    labels = np.arange(600) % 2 == 1
    scores = level + labels * 0.5 + generator.normal(size=600) * 0.1
    alone = delong.delong(scores, labels)[1]
    grouped = delong.delong(scores, labels, np.arange(600) // 2)[1]
    assert grouped < 0.3 * alone


def test_the_variance_by_group_is_obuchowskis_written_out() -> None:
    """S10 / m + S01 / n + 2 S11 / mn of Biometrics 53, 1997, sum by sum, with groups of one class and of both."""
    generator = np.random.default_rng(5)
    for _ in range(50 if LONG else 20):
        positive = np.r_[True, True, False, False, generator.random(40) < 0.5]
        scores, group = (
            generator.integers(0, 9, 44) / 8 + 0.3 * positive,
            np.r_[0, 1, 0, 1, generator.integers(0, 12, 40)],
        )
        of_positive, of_negative = scores[positive][:, None], scores[~positive]
        wins = (of_positive > of_negative) + 0.5 * (of_positive == of_negative)
        m, n, area = positive.sum(), (~positive).sum(), wins.mean()
        own = {k: (wins.mean(1)[group[positive] == k] - area).sum() for k in np.unique(group)}
        other = {k: (wins.mean(0)[group[~positive] == k] - area).sum() for k in np.unique(group)}
        size, i10, i01 = len(own), len(np.unique(group[positive])), len(np.unique(group[~positive]))
        s10 = i10 / ((i10 - 1) * m) * sum(v**2 for v in own.values())
        s01 = i01 / ((i01 - 1) * n) * sum(v**2 for v in other.values())
        s11 = size / (size - 1) * sum(own[k] * other[k] for k in own)
        expected = s10 / m + s01 / n + 2 * s11 / (m * n)
        assert delong.delong(scores, positive, group) == pytest.approx((area, max(0, expected)))
