"""Normalisation of grey levels: what another brightness, contrast or gamma may change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.grey_levels import DEVIATION, MEAN, normalise_levels
from brainscale.reading.preprocess import make_plane, spec_fingerprint

KINDS = ["histogram", "z_score"]
RANDOM = np.random.default_rng(0)
HEAD = RANDOM.normal(120, 20, (64, 64)).clip(40, 220).astype(np.uint8)
AIR = RANDOM.normal(8, 3, (64, 64)).clip(0, 30).astype(np.uint8)
SCAN = np.concatenate([AIR, HEAD], 1)


@given(arrays.arrays(np.uint8, (8, 8)), st.sampled_from(KINDS))
def test_the_order_of_levels_stays(plane: np.ndarray, kind: str) -> None:
    new = normalise_levels(plane, kind)
    assert (new.dtype, new.shape) == (np.uint8, plane.shape)
    order = np.argsort(plane, axis=None, kind="stable")
    assert (np.diff(new.reshape(-1)[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("brighter", [0, 30], ids=["black", "grey"])
def test_air_becomes_dark_and_does_not_count(kind: str, brighter: int) -> None:
    new = normalise_levels(SCAN + np.uint8(brighter), kind)
    without_air = normalise_levels(np.concatenate([0 * AIR, HEAD], 1), kind)
    assert new[:, :64].max() < 64
    assert new[:, :64].min() == 0
    assert np.abs(new[:, 64:].astype(int) - without_air[:, 64:]).max() <= 8


def test_none_changes_nothing() -> None:
    assert normalise_levels(HEAD, "none") is HEAD


def test_a_z_score_has_one_mean_and_deviation() -> None:
    new = normalise_levels(SCAN, "z_score")[:, 64:].astype(float)
    assert new.mean() == pytest.approx(MEAN, abs=1)
    assert new.std() == pytest.approx(DEVIATION, abs=1)


def test_equalised_levels_are_all_about_as_frequent() -> None:
    counts, _ = np.histogram(normalise_levels(SCAN, "histogram")[:, 64:], bins=4)
    assert counts.max() < 1.3 * counts.min()


@pytest.mark.parametrize("kind", KINDS)
def test_another_contrast_makes_nearly_the_same_plane(kind: str) -> None:
    darker = np.concatenate([AIR, (20 + 0.6 * HEAD).astype(np.uint8)], 1)
    apart = np.abs(normalise_levels(darker, kind).astype(int) - normalise_levels(SCAN, kind))
    assert np.abs(darker.astype(int) - SCAN).max() > 50
    assert np.quantile(apart[:, 64:], 0.99) <= 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grey", [0, 1, 90, 255])
def test_a_plane_of_one_level_is_no_error(kind: str, grey: int) -> None:
    new = normalise_levels(np.full((64, 64), grey, np.uint8), kind)
    assert len(np.unique(new)) == 1
    assert (new[0, 0] > 0) == (grey > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_planes_are_normalised_after_the_fit(kind: str) -> None:
    spec = PreprocessConfig.model_validate({"image_size": 64, "crop": 1.0, "normalisation": kind})
    plain = PreprocessConfig(image_size=64, crop=1.0)
    assert np.array_equal(make_plane(SCAN, spec), normalise_levels(make_plane(SCAN, plain), kind))
    assert spec_fingerprint(spec) != spec_fingerprint(plain)
