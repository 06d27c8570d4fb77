"""Novelty: a share of validation samples that rises with the distance from the training samples."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.errors import BundleError
from brainscale.models.novelty import NoveltyReference, count_unusual, describe_unusual, read_novelty, write_novelty
from brainscale.models.novelty_fit import QUANTILES, calibrate, fit_novelty

FEATURES = 40


def drawn(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Features of two classes, of very different scales, float32 [count, FEATURES]."""
    generator = np.random.default_rng(seed)
    mixing = np.linalg.qr(np.random.default_rng(7).normal(size=(FEATURES, FEATURES)))[0] * np.logspace(-2, 2, FEATURES)
    latent = generator.normal(size=(count, FEATURES)) + 3 * (np.arange(count) % 2)[:, None]
    latent[:, FEATURES // 2 :] *= 0.1  # relations that hold in every usual sample
    return np.asarray((latent + shift * generator.normal(size=(count, FEATURES))) @ mixing, np.float32)


def fitted(train: int = 80, val: int = 60) -> NoveltyReference:
    reference = fit_novelty(drawn(train, 0), drawn(val, 1))
    assert reference is not None
    return reference


def test_usual_samples_are_spread_evenly_and_others_are_above_all() -> None:
    reference = fitted(train=200, val=200)
    usual = reference.measure(drawn(2000, 2))
    assert abs(usual.mean() - 0.5) < 0.06
    assert abs((usual > 0.95).mean() - 0.05) < 0.04  # 200 validation samples: ± 0.015, and they differ from these
    assert reference.measure(drawn(50, 3, shift=9)).min() == 1


@settings(deadline=None, max_examples=50)
@given(
    distances=st.lists(st.floats(0, 1e4, width=32), min_size=2, max_size=1500).filter(
        lambda some: max(some) > 1.01 * min(some)
    ),
    asked=st.lists(st.floats(0, 2e4, width=32), min_size=2, max_size=20),
)
def test_shares_rise_from_0_to_1(distances: list[float], asked: list[float]) -> None:
    knots, shares = calibrate(np.array(distances))
    assert len(knots) == len(shares) <= QUANTILES
    assert (np.diff(knots) > 0).all()
    assert (np.diff(shares) > 0).all()
    assert (shares[0], shares[-1]) == (0, 1)
    found = np.interp(sorted(asked), knots, shares)
    assert (np.diff(found) >= -1e-7).all()
    at_each = np.interp(distances, knots, shares)
    nearer = [np.mean(np.array(distances) < one) for one in distances]
    alike = [np.mean(np.abs(np.array(distances) - one) <= 2e-3 * one) for one in distances]
    assert (np.abs(at_each - nearer) <= np.array(alike) + 3 / min(len(distances), QUANTILES)).all()


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(30)))
def test_the_order_of_samples_does_not_matter(order: list[int]) -> None:
    reference, features = fitted(), drawn(30, 4)
    assert (reference.measure(features)[order] == reference.measure(features[order])).all()  # to the bit
    train = drawn(80, 5)
    again = fit_novelty(train[[*order, *range(30, 80)]], drawn(30, 6))
    first = fit_novelty(train, drawn(30, 6)[::-1])
    assert first is not None
    assert again is not None
    assert np.allclose(first.measure_distances(features), again.measure_distances(features), rtol=1e-3)


def test_features_of_other_units_are_as_unusual() -> None:
    """A feature in other units, and one that never varied in training, change nothing."""
    units = np.logspace(-3, 3, FEATURES)

    def in_units(features: np.ndarray) -> np.ndarray:
        return np.concatenate([features * units, np.ones((len(features), 1))], 1).astype(np.float32)

    scaled = fit_novelty(in_units(drawn(80, 0)), in_units(drawn(60, 1)))
    assert scaled is not None
    usual = drawn(40, 8)
    assert np.allclose(scaled.measure(in_units(usual)), fitted().measure(usual), atol=2e-3)


def test_few_samples_and_many_features() -> None:
    generator = np.random.default_rng(0)
    train, val, usual = (generator.normal(size=(count, 300)).astype(np.float32) for count in (24, 20, 500))
    reference = fit_novelty(train, val)
    assert reference is not None
    assert np.median(reference.measure(usual)) < 0.9
    assert reference.projection.shape == (300, 150)


def test_without_variation_there_is_none() -> None:
    same = np.ones((30, 5), np.float32)
    assert fit_novelty(same, same) is None
    assert fit_novelty(drawn(30, 0), np.ones((20, FEATURES), np.float32)) is None


def test_a_file_holds_all_of_it_or_is_refused(tmp_path: Path) -> None:
    reference, features = fitted(), drawn(20, 9)
    write_novelty(reference, tmp_path / "novelty.safetensors")
    again = read_novelty(tmp_path / "novelty.safetensors")
    assert (again.measure(features) == reference.measure(features)).all()
    (tmp_path / "novelty.safetensors").write_bytes(b"{}")
    with pytest.raises(BundleError, match="cannot be read"):
        read_novelty(tmp_path / "novelty.safetensors")


def test_what_is_unusual_is_counted_and_said() -> None:
    assert count_unusual(np.array([0.98, 0.99, 1, np.nan], np.float32)) == 2
    assert describe_unusual(0, 1200) == "0 of 1,200 samples are more unusual than 99 % of the validation samples."
    assert describe_unusual(2, 5).endswith("of the validation samples; look at them first.")
    assert describe_unusual(1, 1).startswith("1 of 1 sample is more")
