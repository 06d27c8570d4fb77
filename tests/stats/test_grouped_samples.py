"""Metrics from sums by group: equal to those of the drawn samples, at any batch size, with memory that is bounded."""

import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.stats import bootstrap, calibration, resampling
from brainscale.stats.bootstrap import metric_values
from brainscale.stats.estimate import estimates_of
from brainscale.stats.folds import measure_folds
from brainscale.stats.grouped_samples import GroupedSamples
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from tests.support.samples import LONG, labelled

GOLDEN = json.loads((Path(__file__).parent / "golden_metrics.json").read_text())
"""Value, low and high of each metric, as computed before sums by group: all resamples times all samples at once."""


def made_up(n: int, size: int, classes: int, levels: int, seed: int, shift: float = 0) -> LabelledProbabilities:
    """Samples in groups of `size`; with levels, many scores are equal."""
    draw = np.random.default_rng(seed)
    group = np.arange(n) // size
    labels = draw.integers(0, classes, n)
    logits = draw.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    logits += 0.6 * draw.normal(size=(n // size + 1, classes))[group] + shift * np.arange(classes)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if levels:
        probabilities = np.round(probabilities * levels) + 0.01
        probabilities /= probabilities.sum(1, keepdims=True)
    names = [f"class_{i}" for i in range(classes)]
    return labelled(labels, probabilities, classes=names, groups=None if size == 1 else group.tolist())


CASES: dict[str, tuple[Any, ...]] = {
    "one sample each": (60, 1, 2, 0, 1),
    "groups": (90, 5, 2, 0, 2),
    "ties": (200, 1, 2, 10, 3),
    "four classes": (150, 3, 4, 0, 4),
    "few": (12, 1, 2, 4, 5),
    "shifted": (300, 10, 2, 0, 6, 1.5),
}


@pytest.mark.parametrize("name", CASES)
def test_small_evaluations_have_the_values_that_they_had_before(name: str) -> None:
    require_golden(name, measure(made_up(*CASES[name]), prevalence=0.1))


def test_folds_have_the_values_that_they_had_before() -> None:
    samples = made_up(120, 4, 2, 0, 8)
    require_golden("folds", measure_folds(samples, samples.codes % 3))


def require_golden(name: str, table: Any) -> None:
    estimates = estimates_of(table)
    assert set(estimates) == set(GOLDEN[name])
    for metric, expected in GOLDEN[name].items():
        own = estimates[metric]
        for value, golden in zip((own.value, own.low, own.high), expected, strict=True):
            assert (value is None) == (golden is None), metric
            assert value is None or value == pytest.approx(golden, rel=1e-10, abs=1e-10), metric


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 3), st.sampled_from([0, 3]))
@settings(max_examples=200 if LONG else 30, deadline=None)
def test_metrics_of_weighted_groups_are_those_of_the_samples_drawn(
    seed: int, size: int, classes: int, levels: int
) -> None:
    samples = made_up(40, size, classes, levels, seed)
    grouped = GroupedSamples.of(samples)
    weights = np.random.default_rng(seed).integers(0, 3, (4, grouped.groups))
    weighted = {**grouped.measure(weights, 0.2), "calibration_slope": grouped.slopes(weights)}
    for row, times in enumerate(weights):
        rows = np.repeat(np.arange(len(samples)), times[grouped.group])
        if not len(rows):
            continue
        drawn = metric_values(GroupedSamples.of(samples.take(rows)), 0.2)
        for name, value in drawn.items():
            assert weighted[name][row] == pytest.approx(value, rel=1e-7, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("classes", [2, 3])
def test_the_size_of_a_batch_changes_no_bit(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 60)
    samples = made_up(80, 3, classes, 9, 2)
    whole = measure(samples, 0.1)
    for cells in (1, 7 * 80):
        monkeypatch.setattr(resampling, "CELLS", cells)
        assert measure(samples, 0.1).equals(whole)


def test_intercepts_from_the_expansion_are_those_of_newtons_method(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = made_up(20_000, 1, 2, 0, 3, 1.0)
    grouped = GroupedSamples.of(samples)
    weights = resampling.draw_numbered(grouped.groups, range(20), 0)
    near = grouped.measure(weights)["calibration_intercept"]
    own = grouped.recalibration.own_intercept
    assert (np.abs(near - own) < calibration.REACH).all()
    assert np.ptp(near) > 0.01
    monkeypatch.setattr(calibration, "REACH", 0)
    assert near == pytest.approx(grouped.measure(weights)["calibration_intercept"], abs=1e-11)


def backwards(function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
    """Results in order, computed from the last to the first."""
    return [function(argument) for argument in list(arguments)[::-1]][::-1]


def in_threads(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(3) as pool:
        yield from pool.map(function, arguments)


def test_parts_of_a_large_bootstrap_can_be_computed_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "LARGE", 100)
    monkeypatch.setattr(bootstrap, "FEWER_RESAMPLES", 90)
    samples = made_up(150, 2, 2, 0, 4)
    here = measure(samples, 0.1)
    for run in (backwards, in_threads):
        assert measure(samples, 0.1, run).equals(here)
    monkeypatch.setattr(bootstrap, "TASK", 7)
    assert measure(samples, 0.1).equals(here)


def test_numbered_resamples_are_of_the_right_size_and_differ() -> None:
    drawn = resampling.draw_numbered(50, range(300), 1)
    assert (drawn.sum(1) == 50).all()
    assert len(np.unique(drawn, axis=0)) == 300
    assert np.array_equal(resampling.draw_numbered(50, [7, 3], 1), drawn[[7, 3]])
    assert drawn.mean() == 1
    assert drawn.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # of a binomial count


@given(st.lists(st.integers(-3, 3), max_size=20))
def test_different_numbers_are_counted(codes: list[int]) -> None:
    assert resampling.count_distinct(np.array(codes, np.int64)) == len(set(codes))


def test_memory_grows_with_the_samples_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples times samples would be 1,600 bytes a sample for the jackknife alone."""
    monkeypatch.setattr(bootstrap, "FEWER_RESAMPLES", 25)
    samples = made_up(100_000, 20, 2, 0, 5)
    tracemalloc.start()
    try:
        measure(samples, 0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 700 * len(samples)
