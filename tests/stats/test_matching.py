"""Matched pairs: one to one, close, and the same for any order of the samples; and what a column alone predicts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from brainscale.errors import UsageError
from brainscale.stats.matching import CALIPER, MatchingColumns, Pairs, match_samples, predict_from_columns
from tests.support.samples import LONG

EXAMPLES = settings(max_examples=300 if LONG else 60, deadline=None)
ROWS = st.lists(
    st.tuples(
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 8).map(float), st.floats(0, 8)),
        st.sampled_from(["CS", "DU", "FG", None]),
        st.integers(0, 5),
    ),
    max_size=60,
)


def columns_of(rows: Any) -> tuple[MatchingColumns, np.ndarray, np.ndarray]:
    has_tumour, numbers, sites, groups = ([row[i] for row in rows] for i in range(4))
    mask = np.array(has_tumour, bool)
    return MatchingColumns.of({"position": numbers, "site": sites}, mask), mask, np.array(groups, np.int64)


def auroc(scores: np.ndarray, has_tumour: np.ndarray) -> float:
    m, n = has_tumour.sum(), (~has_tumour).sum()
    return float((rankdata(scores)[has_tumour].sum() - m * (m + 1) / 2) / (m * n))


def match(columns: MatchingColumns, has_tumour: np.ndarray, groups: np.ndarray) -> Pairs:
    return match_samples(columns, has_tumour, groups, np.random.default_rng(0).permutation(len(groups)))


@given(ROWS)
@EXAMPLES
def test_pairs_are_one_to_one_and_agree(rows: Any) -> None:
    columns, has_tumour, groups = columns_of(rows)
    pairs = match(columns, has_tumour, groups)
    assert len(set(pairs.rows.tolist())) == 2 * len(pairs)
    assert has_tumour[pairs.with_tumour].all()
    assert not has_tumour[pairs.without_tumour].any()
    assert columns.known[pairs.rows].all()
    for a, b in zip(pairs.with_tumour.tolist(), pairs.without_tumour.tolist(), strict=True):
        assert rows[a][2] == rows[b][2]
        assert abs(rows[a][1] - rows[b][1]) <= columns.caliper


@given(ROWS, st.randoms(use_true_random=False))
@EXAMPLES
def test_the_order_of_the_samples_does_not_matter(rows: Any, random: Any) -> None:
    columns, has_tumour, groups = columns_of(rows)
    keys = np.random.default_rng(1).permutation(len(rows))
    pairs = match_samples(columns, has_tumour, groups, keys)
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled, mask, codes = columns_of([rows[i] for i in order])
    again = match_samples(shuffled, mask, codes, keys[order])

    def as_set(pairs: Pairs, names: Any) -> set[tuple[int, int]]:
        both = zip(pairs.with_tumour.tolist(), pairs.without_tumour.tolist(), strict=True)
        return {(names[a], names[b]) for a, b in both}

    assert as_set(again, order) == as_set(pairs, range(len(rows)))
    alone = predict_from_columns(columns, has_tumour, groups)
    assert predict_from_columns(shuffled, mask, codes) == pytest.approx(alone[order])


@given(ROWS)
@EXAMPLES
def test_no_further_pair_is_left(rows: Any) -> None:
    """Two samples in no pair, of different classes, would not agree."""
    columns, has_tumour, groups = columns_of(rows)
    free = columns.known.copy()
    free[match(columns, has_tumour, groups).rows] = False
    for a in np.flatnonzero(free & has_tumour):
        for b in np.flatnonzero(free & ~has_tumour):
            agree = columns.strata[a] == columns.strata[b]
            assert not (agree and abs(columns.numbers[a] - columns.numbers[b]) <= columns.caliper)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 8)), min_size=2, max_size=30))
@EXAMPLES
def test_the_closest_are_paired_first(rows: Any) -> None:
    """As a search over all pairs finds them, where no two differences are equal."""
    has_tumour, numbers = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    columns = MatchingColumns.of({"x": numbers.tolist()}, has_tumour)
    candidates = sorted(
        (abs(numbers[a] - numbers[b]), a, b) for a in np.flatnonzero(has_tumour) for b in np.flatnonzero(~has_tumour)
    )
    if len({difference for difference, _, _ in candidates}) < len(candidates):
        return
    expected, used = set(), set[int]()
    for difference, a, b in candidates:
        if difference <= columns.caliper and not {a, b} & used:
            expected.add((a, b))
            used |= {a, b}
    pairs = match(columns, has_tumour, np.arange(len(rows)))
    assert set(zip(pairs.with_tumour.tolist(), pairs.without_tumour.tolist(), strict=True)) == expected


def test_a_sample_is_paired_within_its_group_before_others() -> None:
    """The partner in the own group is farther than another."""
    has_tumour, numbers = np.array([True, False, False, True]), [5.0, 5.1, 5.3, 0.0]
    columns = MatchingColumns.of({"x": numbers}, has_tumour)
    pairs = match(columns, has_tumour, np.array([0, 1, 0, 2]))
    assert (pairs.with_tumour.tolist(), pairs.without_tumour.tolist()) == ([0], [2])


def test_the_caliper_is_a_fifth_of_the_deviation_within_the_classes() -> None:
    draw = np.random.default_rng(0)
    has_tumour = np.arange(4000) % 2 == 0
    numbers = np.where(has_tumour, draw.normal(10, 3, 4000), draw.normal(0, 1, 4000))
    columns = MatchingColumns.of({"x": numbers.tolist()}, has_tumour)
    assert columns.caliper == pytest.approx(CALIPER * np.sqrt(5), rel=0.05)  # the mean of the variances 9 and 1


def test_texts_and_truth_values_must_be_the_same() -> None:
    has_tumour = np.array([True, True, False, False, False])
    columns = MatchingColumns.of({"site": ["a", "b", "b", "b", "c"], "contrast": [True] * 5}, has_tumour)
    pairs = match(columns, has_tumour, np.arange(5))
    assert (columns.caliper, columns.has_numbers, len(pairs)) == (0, False, 1)
    assert columns.stratum_names == ("a, True", "b, True", "c, True")
    assert pairs.with_tumour.tolist() == [1]


def test_two_columns_of_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="columns x and y both have numbers: match on one of them"):
        MatchingColumns.of({"x": [1, 2], "y": [1.0, 2.0]}, np.array([True, False]))
    with pytest.raises(UsageError, match="column x has 1 values for 2 samples"):
        MatchingColumns.of({"x": [1]}, np.array([True, False]))


def test_a_column_predicts_what_it_knows() -> None:
    """Tumours in the middle: no direction of the column says so, but its neighbourhood does; noise says nothing."""
    draw = np.random.default_rng(0)
    position, groups = draw.random(2000), np.repeat(np.arange(200), 10)
    has_tumour = draw.random(2000) < np.where(np.abs(position - 0.5) < 0.25, 0.8, 0.2)
    columns = MatchingColumns.of({"position": position.tolist()}, has_tumour)
    assert abs(auroc(position, has_tumour) - 0.5) < 0.03
    assert auroc(predict_from_columns(columns, has_tumour, groups), has_tumour) == pytest.approx(0.8, abs=0.04)
    noise = MatchingColumns.of({"noise": draw.random(2000).tolist()}, has_tumour)
    assert auroc(predict_from_columns(noise, has_tumour, groups), has_tumour) == pytest.approx(0.5, abs=0.05)
    rows = match(columns, has_tumour, groups).rows
    assert auroc(predict_from_columns(columns, has_tumour)[rows], has_tumour[rows]) == pytest.approx(0.5, abs=0.03)


def test_a_sample_is_predicted_by_other_groups() -> None:
    """Of two groups of one class each, each is predicted by the other, by hand: its share, and one sample more."""
    has_tumour, groups = np.array([True, True, False, False]), np.array([0, 0, 1, 1])
    columns = MatchingColumns.of({"site": ["a", "a", "a", None]}, has_tumour)
    alone = predict_from_columns(columns, has_tumour, groups)
    assert alone.tolist() == [0, 0, 1, 1]  # others of site a: 0 of 1 and 2 of 2; of an unknown site: all others
    together = predict_from_columns(columns, has_tumour)
    assert together.tolist() == pytest.approx([2.5 / 4, 2.5 / 4, 2.5 / 4, 0.5])


def test_of_no_samples_there_is_no_pair() -> None:
    columns = MatchingColumns.of({"x": []}, np.zeros(0, bool))
    assert len(match(columns, np.zeros(0, bool), np.zeros(0, np.int64))) == 0
    assert len(predict_from_columns(columns, np.zeros(0, bool), np.zeros(0, np.int64))) == 0
