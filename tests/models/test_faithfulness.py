"""Deletion, insertion and the pointing game, on scores whose right answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainscale.dataset.phantoms import draw_outline, draw_phantom
from brainscale.models.faithfulness import (
    PART,
    Faithfulness,
    MeasuredHeatmap,
    area,
    centre_map,
    changed_pixels,
    find_peak,
    is_peak_in,
    measure_beside_random,
    measure_heatmap,
    random_map,
    summarise_faithfulness,
)
from brainscale.models.head_mask import find_head_mask

SIZE = 32


def of_patch(planes: np.ndarray) -> np.ndarray:
    """Log-odds from the detail of a patch alone."""
    detail = np.abs(np.diff(planes[:, 4:12, 18:26].astype(float), axis=1)).mean((1, 2))
    return np.asarray(0.2 * (detail - 20))


def textured_plane() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), np.uint8)


def true_map() -> np.ndarray:
    heat = np.zeros((SIZE, SIZE))
    heat[4:12, 18:26] = 1
    return heat


def test_the_true_map_beats_random_opposite_and_centred_maps() -> None:
    plane = textured_plane()
    true = measure_heatmap(of_patch, plane, true_map())
    for other in (1 - true_map(), centre_map(plane), *(random_map(plane, i) for i in range(5))):
        measured = measure_heatmap(of_patch, plane, other)
        assert true.deletion < measured.deletion
        assert true.insertion > measured.insertion


def test_a_score_that_does_not_depend_on_the_plane_gives_no_faithfulness() -> None:
    measured = measure_heatmap(lambda planes: np.full(len(planes), 1.5), textured_plane(), true_map())
    assert measured.deletion == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert measured.faithfulness == pytest.approx(0)


def test_curves_go_from_the_plane_to_the_blurred_plane_and_back() -> None:
    seen: list[np.ndarray] = []

    def keep(planes: np.ndarray) -> np.ndarray:
        seen.append(planes)
        return np.zeros(len(planes))

    plane = textured_plane()
    measure_heatmap(keep, plane, true_map(), steps=4)
    (planes,) = seen
    assert planes.dtype == np.uint8
    assert np.array_equal(planes[0], plane)
    deleted, inserted = planes[:5], planes[5:]
    assert np.ptp(inserted[0]) == 0
    is_hot = true_map() == 1  # 6 % of the pixels, in a curve over 20 %
    assert (deleted[-1] != plane).mean() > PART - 0.01
    assert np.array_equal(inserted[-1][is_hot], plane[is_hot])
    assert deleted[-1][is_hot].std() < plane[is_hot].std() / 4


@given(arrays(np.float32, (6, 6), elements=st.floats(0, 1, width=32)), st.integers(1, 12))
def test_each_step_changes_the_hottest_pixels_that_are_left(heatmap: np.ndarray, steps: int) -> None:
    changed = changed_pixels(heatmap, steps)
    assert changed.sum((1, 2)).tolist() == np.rint(np.linspace(0, 36 * PART, steps + 1)).tolist()
    for before, after in zip(changed, changed[1:], strict=False):
        assert (after | ~before).all()
        if after.any() and not after.all():
            assert heatmap[after].min() >= heatmap[~after].max()


def test_pixels_of_one_heat_do_not_follow_the_rows() -> None:
    last = changed_pixels(np.zeros((SIZE, SIZE)), 2)[-1]
    assert 0.4 < last[: SIZE // 2].sum() / last.sum() < 0.6


def test_an_area() -> None:
    assert area(np.array([1.0, 0.0])) == 0.5
    assert area(np.array([1.0, 1.0, 0.0])) == 0.75
    assert area(np.full(7, 0.3)) == pytest.approx(0.3)


def test_the_pointing_game() -> None:
    heat, region = np.zeros((4, 4)), np.zeros((4, 4), bool)
    region[1, 2] = True
    assert find_peak(heat) is None
    assert not is_peak_in(heat, np.ones((4, 4), bool))
    heat[1, 2] = 0.4
    assert find_peak(heat) == (1, 2)
    assert is_peak_in(heat, region)
    assert not is_peak_in(heat, ~region)


def test_control_maps_keep_to_the_head() -> None:
    plane = draw_phantom(0, 0, tumour=True, size=64)
    head = find_head_mask(plane)
    assert 0.3 < head.mean() < 0.8
    assert not head[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    for control in (centre_map(plane), random_map(plane, 1)):
        assert control[head].min() >= control[~head].max()
        assert control.min() >= 0
        assert control.max() <= 1
    assert not np.array_equal(random_map(plane, 1), random_map(plane, 2))
    assert np.array_equal(random_map(plane, 1), random_map(plane, 1))
    peak = np.array(find_peak(centre_map(plane)))
    assert np.abs(peak - np.argwhere(head).mean(0)).max() < 1


def test_a_plane_without_contrast_has_no_head() -> None:
    assert not find_head_mask(np.full((SIZE, SIZE), 7, np.uint8)).any()
    assert np.isfinite(centre_map(np.zeros((SIZE, SIZE), np.uint8))).all()


def test_a_head_is_the_largest_bright_region_without_holes() -> None:
    plane = np.zeros((64, 64), np.uint8)
    plane[10:50, 12:52] = 180
    plane[25:32, 25:32] = 0  # a ventricle
    plane[58:62, 2:20] = 255  # a line of text
    head = find_head_mask(plane)
    assert head[28, 28]
    assert not head[60, 5]
    assert 0.9 < head.sum() / 1600 < 1.1


def test_an_outline_is_where_a_phantom_has_its_lesion() -> None:
    for index in range(0, 12, 2):
        outline, plane = draw_outline(0, index), draw_phantom(0, index, tumour=True)
        assert outline.shape == plane.shape
        assert 0.002 < outline.mean() < 0.15
        assert (outline & find_head_mask(plane)).sum() > 0.95 * outline.sum()


def measured_as(own: float, random: float) -> MeasuredHeatmap:
    return MeasuredHeatmap(
        own=Faithfulness(deletion=0.5, insertion=0.5 + own), random=Faithfulness(deletion=0.5, insertion=0.5 + random)
    )


def test_a_summary_pairs_the_maps_and_counts_groups() -> None:
    gains = [0.1, 0.2, 0.3, 0.2]
    measured = [measured_as(0.1 + gain, 0.1) for gain in gains]
    alone = summarise_faithfulness("occlusion", measured, [None] * 4)
    assert alone.gain.value == pytest.approx(0.2)
    assert alone.own.faithfulness - alone.random.faithfulness == pytest.approx(0.2)
    assert (alone.gain.n, alone.gain.method, alone.is_shown) == (4, "t interval", True)
    grouped = summarise_faithfulness("occlusion", measured, ["a", "a", "b", "b"])
    assert grouped.gain.method == "t interval by group"
    assert grouped.gain.high - grouped.gain.low > alone.gain.high - alone.gain.low  # type: ignore[operator]
    single = summarise_faithfulness("occlusion", measured[:1], ["a"])
    assert single.gain.low is None
    assert not single.is_shown
    worse = summarise_faithfulness("occlusion", [measured_as(0.0, gain) for gain in gains], [None] * 4)
    assert not worse.is_shown


def test_the_measure_beside_random_blobs_is_repeatable() -> None:
    plane = textured_plane()
    first, second = (measure_beside_random(of_patch, plane, true_map()) for _ in range(2))
    assert first == second
    assert first.own.faithfulness > first.random.faithfulness
