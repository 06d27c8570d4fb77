"""When a faster computation may stand for the exact one, on made-up probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.stats.agreement import MAX_CHANGED_SHARE, MIN_SAMPLES, find_objection, measure_agreement
from brainscale.stats.intervals import wilson


def both(tumour: np.ndarray) -> np.ndarray:
    return np.stack([1 - tumour, tumour], 1).astype(np.float32)


def separated(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of samples of two kinds that a model tells apart."""
    labels = np.arange(count) % 2
    return labels, both(np.where(labels, 0.9, 0.1) + np.linspace(-0.05, 0.05, count))


def test_the_same_probabilities_agree() -> None:
    labels, exact = separated(40)
    agreement = measure_agreement(labels, exact, exact, 0.5)
    assert (agreement.samples, agreement.changed, agreement.largest_change) == (40, 0, 0)
    assert (agreement.auroc_exact, agreement.auroc_fast) == (1, 1)
    assert agreement.changed_bound == pytest.approx(wilson(0, 40)[1])
    assert find_objection(agreement) is None


def test_the_largest_change_is_that_of_any_class() -> None:
    labels, exact = separated(40)
    fast = exact.copy()
    fast[7] += np.array([0.03, -0.03], np.float32)
    agreement = measure_agreement(labels, exact, fast, 0.5)
    assert agreement.largest_change == pytest.approx(0.03, abs=1e-6)
    assert find_objection(agreement) is None


def test_another_order_is_refused_though_no_prediction_changes() -> None:
    labels = np.arange(40) % 2
    tumour = np.where(labels, 0.4, 0.3) + np.linspace(0, 0.05, 40)
    swapped = tumour.copy()
    swapped[[0, 39]] = tumour[[39, 0]]
    objection = find_objection(measure_agreement(labels, both(tumour), both(swapped), 0.9))
    assert objection is not None
    assert objection.startswith("the AUROC is 0.9")


@pytest.mark.parametrize(("samples", "changed", "passes"), [(40, 1, False), (188, 1, False), (400, 2, True)])
def test_predictions_may_change_as_far_as_the_interval_allows(samples: int, changed: int, passes: bool) -> None:
    """Those that change lie at the threshold, so that the AUROC stays."""
    labels, exact = separated(samples)
    fast = exact.copy()
    with_tumour = np.flatnonzero(labels)[:changed]
    exact[with_tumour], fast[with_tumour] = (0.49, 0.51), (0.51, 0.49)
    agreement = measure_agreement(labels, exact, fast, 0.5)
    assert agreement.changed == changed
    assert agreement.auroc_exact == agreement.auroc_fast
    objection = find_objection(agreement)
    assert (objection is None) == passes
    if objection is not None:
        assert f"{changed} of {samples} predictions change" in objection


def test_what_cannot_be_checked_is_refused() -> None:
    labels, exact = separated(MIN_SAMPLES - 1)
    assert "cannot be checked on 19 samples" in str(find_objection(measure_agreement(labels, exact, exact, 0.5)))
    labels, exact = separated(40)
    one_kind = measure_agreement(np.zeros(40, np.int64), exact, exact, 0.5)
    assert "all samples are of one kind" in str(find_objection(one_kind))


def test_what_is_not_a_number_is_refused() -> None:
    labels, exact = separated(40)
    fast = exact.copy()
    fast[3] = np.nan
    assert find_objection(measure_agreement(labels, exact, fast, 0.5)) is not None


@given(st.integers(MIN_SAMPLES, 300), st.floats(0, 0.6), st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_what_passes_keeps_to_the_limits(count: int, noise: float, seed: int, threshold: float) -> None:
    labels, exact = separated(count)
    fast = both((exact[:, 1] + noise * np.random.default_rng(seed).uniform(-1, 1, count)).clip(0, 1))
    agreement = measure_agreement(labels, exact, fast, threshold)
    if find_objection(agreement) is None:
        assert abs(agreement.auroc_exact - agreement.auroc_fast) <= 0.002
        assert agreement.changed == 0 or wilson(agreement.changed, count)[1] <= MAX_CHANGED_SHARE
