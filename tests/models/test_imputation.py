"""Hidden pixels are interpolated from the visible ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainscale.models.imputation import hide


@given(
    st.integers(1, 21).flatmap(lambda side: st.tuples(arrays(np.uint8, (side, side)), arrays(bool, (3, side, side))))
)
def test_visible_pixels_stay_and_hidden_ones_lie_between_them(case: tuple[np.ndarray, np.ndarray]) -> None:
    plane, hidden = case
    planes = hide(plane, hidden)
    assert planes.shape == hidden.shape
    assert planes.dtype == np.uint8
    for filled, some in zip(planes, hidden, strict=True):
        assert np.array_equal(filled[~some], plane[~some])
        if not some.all():
            assert filled.min() >= plane[~some].min()
            assert filled.max() <= plane[~some].max()
        else:
            assert np.ptp(filled) == 0
            assert abs(int(filled[0, 0]) - plane.mean()) <= 0.5


@pytest.mark.parametrize("side", [64, 96, 111])
def test_a_bright_spot_on_a_slope_is_gone(side: int) -> None:
    slope = np.tile(np.linspace(40, 200, side), (side, 1))
    plane = slope.copy()
    spot = np.zeros((side, side), bool)
    spot[side // 3 : side // 2, side // 3 : side // 2] = True
    plane[spot] = 255
    (filled,) = hide(plane.astype(np.uint8), spot[None])
    assert np.abs(filled[spot] - slope[spot]).max() < 12
    assert np.abs(np.diff(filled.astype(int), axis=0)).max() < 12  # no edge is left


def test_the_same_call_gives_the_same_planes_and_changes_none() -> None:
    generator = np.random.default_rng(0)
    plane, hidden = generator.integers(0, 256, (32, 32), np.uint8), generator.random((2, 32, 32)) < 0.5
    before = plane.copy()
    assert np.array_equal(hide(plane, hidden), hide(plane, hidden))
    assert np.array_equal(plane, before)
