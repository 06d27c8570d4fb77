"""Splits and folds are as even as the groups let: beside StratifiedGroupKFold, on made-up and on real sets."""

import csv
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from brainscale.dataset.balance import Counts, balance_groups
from tests.support.shared import shared
from tests.support.tables import digest

SEEDS = range(5)


def balance(counts: Counts, shares: Sequence[float], seed: int, kept: Sequence[int] | None = None) -> Counts:
    draw = np.random.default_rng(seed)
    keys, tie_order = draw.integers(0, 2**62, len(counts)), draw.permutation(len(shares)).tolist()
    return balance_groups(counts, shares, keys, np.full(len(counts), -1) if kept is None else np.array(kept), tie_order)


def folds_of(counts: Counts, folds: int, seed: int) -> Counts:
    return balance(counts, [1 / folds] * folds, seed)


def yardstick(counts: Counts, folds: int, seed: int) -> Counts:
    """The fold of each group, as scikit-learn chooses it."""
    labels = np.concatenate([np.repeat(np.arange(len(row)), row) for row in counts])
    groups = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    assigned = np.full(len(counts), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label may have fewer samples than there are folds
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, rows) in enumerate(splitter.split(labels, labels, groups)):
            assigned[groups[rows]] = fold
    return assigned


def samples_of(counts: Counts, assigned: Counts, splits: int) -> Counts:
    """Number of samples of each split and label."""
    return np.array([counts[assigned == n].sum(axis=0) for n in range(splits)])


def unevenness(samples: Counts) -> float:
    """What StratifiedGroupKFold keeps small: the deviation of a label's share between folds, its mean over labels."""
    return float(np.mean(np.std(samples / samples.sum(axis=0), axis=0)))


def is_covered(samples: Counts) -> bool:
    return bool((samples > 0).all())


def brain_mri_253() -> Counts:
    """The public images; groups of identical files."""
    files = sorted(shared("data/brain_mri_253").rglob("*.*"))
    groups: dict[str, list[int]] = {}
    for file in files:
        groups.setdefault(digest(file.read_bytes()), [0, 0])[file.parent.name == "yes"] += 1
    return np.array([groups[name] for name in sorted(groups)])


def lgg_flair() -> Counts:
    """Slices of FLAIR volumes; a group for each patient."""
    groups: dict[str, list[int]] = {}
    with shared("data/lgg_flair/labels.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            groups.setdefault(row["patient"], [0, 0])[row["label"] == "tumour"] += 1
    return np.array([groups[name] for name in sorted(groups)])


def one_giant_group() -> Counts:
    """A group with a third of all samples, among small ones."""
    draw = np.random.default_rng(0)
    small = np.eye(2, dtype=np.int64)[draw.integers(0, 2, 300)] * draw.integers(1, 5, (300, 1))
    return np.concatenate([[[50, 350]], small])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("source", [brain_mri_253, lgg_flair, one_giant_group])
def test_folds_are_at_least_as_even_as_scikit_learns(source: Callable[[], Counts], seed: int) -> None:
    counts = source()
    ours = samples_of(counts, folds_of(counts, 5, seed), 5)
    theirs = samples_of(counts, yardstick(counts, 5, seed), 5)
    assert unevenness(ours) <= unevenness(theirs) + 1e-12
    assert np.ptp(ours.sum(axis=1)) <= np.ptp(theirs.sum(axis=1))
    shares = [np.ptp(samples / samples.sum(axis=1, keepdims=True), axis=0).max() for samples in (ours, theirs)]
    # one sample more or less of a fold, where sizes are no multiple of the number of folds
    assert shares[0] <= shares[1] + 1 / ours.sum(axis=1).min()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("source", [brain_mri_253, lgg_flair])
def test_splits_have_their_shares_of_each_label(source: Callable[[], Counts], seed: int) -> None:
    counts, shares = source(), np.array([0.65, 0.15, 0.2])
    samples = samples_of(counts, balance(counts, shares.tolist(), seed), 3)
    assert np.abs(samples - shares[:, None] * counts.sum(axis=0)).max() < 1.5


counts_of_groups = st.integers(1, 4).flatmap(
    lambda labels: st.lists(
        st.one_of(  # groups of one label, as duplicates are, and of several, as volumes are
            st.tuples(st.integers(0, labels - 1), st.integers(1, 30)).map(
                lambda one: [one[1] * (label == one[0]) for label in range(labels)]
            ),
            st.lists(st.integers(0, 12), min_size=labels, max_size=labels).filter(any),
        ),
        min_size=4,
        max_size=60,
    ).map(lambda rows: np.array(rows, np.int64))
)


@given(counts_of_groups, st.integers(2, 6), st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_no_random_set_is_less_even_than_scikit_learns(counts: Counts, folds: int, seed: int) -> None:
    """By more than two samples of each label; where scikit-learn leaves a label out of a fold, it is no yardstick."""
    assume(len(counts) >= folds and counts.sum(axis=0).min() >= folds)
    theirs = samples_of(counts, yardstick(counts, folds, seed), folds)
    ours = samples_of(counts, folds_of(counts, folds, seed), folds)
    assert is_covered(ours) or not is_covered(theirs)
    assume(is_covered(theirs))
    assert unevenness(ours) <= unevenness(theirs) + np.mean(2 / counts.sum(axis=0)) + 1e-12  # exactly two is allowed


def test_most_random_sets_are_more_even_than_with_scikit_learn() -> None:
    draw, better, worse = np.random.default_rng(0), 0, 0
    for seed in range(90):
        labels, folds = draw.integers(2, 5), int(draw.integers(2, 7))
        counts = draw.poisson(draw.choice([0.3, 1, 3, 10]), (draw.integers(10, 80), labels)) + 0
        counts[np.arange(len(counts)), draw.integers(0, labels, len(counts))] += 1
        theirs = samples_of(counts, yardstick(counts, folds, seed), folds)
        ours = samples_of(counts, folds_of(counts, folds, seed), folds)
        if is_covered(theirs):
            better += unevenness(ours) < unevenness(theirs) - 1e-12
            worse += unevenness(ours) > unevenness(theirs) + 1e-12
    assert better > 60
    assert worse <= 1


@given(counts_of_groups, st.integers(2, 5), st.integers(0, 2**30), st.data())
@settings(max_examples=60, deadline=None)
def test_kept_groups_stay_and_count(counts: Counts, splits: int, seed: int, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.integers(-1, splits - 1), min_size=len(counts), max_size=len(counts)))
    assigned = balance(counts, [1 / splits] * splits, seed, kept)
    assert set(assigned.tolist()) <= set(range(splits))
    assert all(new == old for new, old in zip(assigned.tolist(), kept, strict=True) if old >= 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=60), st.integers(0, 2**30))
@settings(max_examples=60, deadline=None)
def test_a_label_with_enough_groups_is_in_every_split(rows: list[tuple[int, int]], seed: int) -> None:
    """Whatever the sizes, if each group has one label."""
    counts = np.zeros((len(rows), 4), np.int64)
    counts[np.arange(len(rows)), [label for label, _ in rows]] = [size for _, size in rows]
    assigned = balance(counts, [0.65, 0.15, 0.2], seed)
    for label in np.flatnonzero((counts > 0).sum(axis=0) >= 3):
        assert set(assigned[counts[:, label] > 0].tolist()) == {0, 1, 2}


def test_new_groups_fill_the_split_that_kept_groups_leave_short() -> None:
    counts = np.ones((150, 1), np.int64)
    kept = [0] * 70 + [1] * 30 + [-1] * 50
    assert samples_of(counts, balance(counts, [0.5, 0.2, 0.3], 0, kept), 3)[:, 0].tolist() == [75, 30, 45]


def test_another_seed_divides_groups_of_different_sizes_differently() -> None:
    """And not only names the folds differently, so that repeats of a cross-validation tell something new."""
    counts = np.arange(100, 200)[:, None]
    partitions = set()
    for seed in SEEDS:
        assigned = folds_of(counts, 5, seed)
        partitions.add(frozenset(frozenset(np.flatnonzero(assigned == fold).tolist()) for fold in range(5)))
        assert np.ptp(samples_of(counts, assigned, 5)) <= 1
    assert len(partitions) == len(SEEDS)
