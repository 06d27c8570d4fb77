"""Slices are divided into volumes and put in order, whatever their headers say or leave out; without files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.reading.histogram import Histogram, count_values, merge
from brainscale.reading.series import Slice, SliceFacts, bright_rank, choose_windows, find_volumes, is_background
from tests.support.series import DIRECTIONS, STEPS

PERCENTILES = (0.5, 99.5)


def one(name: str, place: float | None, number: float | None = None, kind: str = "axial", **more: object) -> Slice:
    """A slice that lies `place` steps from the first."""
    geometry = None if place is None else (*DIRECTIONS[kind], *(place * step for step in STEPS[kind]))
    facts = SliceFacts(geometry=geometry, number=number, **{"instance": name, **more})  # type: ignore[arg-type]
    return Slice(sample_id=name, series="s", size=(8, 8), facts=facts)


def orders(slices: list[Slice]) -> tuple[list[str], dict[str, tuple[int, int, str]]]:
    """Names in order, volume by volume; and the kinds of notes."""
    volumes, _, notes = find_volumes(slices)
    return ["".join(slices[i].sample_id for i in volume) for volume in volumes], notes.kinds


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_slices_are_in_the_order_of_space_as_in_a_nifti(kind: str) -> None:
    assert orders([one("b", 2, kind=kind), one("c", 0, kind=kind), one("a", 1, kind=kind)]) == (["cab"], {})


def test_without_positions_the_numbers_decide_and_without_numbers_the_names() -> None:
    assert orders([one("a", None, 3), one("b", None, 1), one("c", None, 2)]) == (["bca"], {})
    assert orders([one("b", None), one("a", None), one("c", None, 7)]) == (["cab"], {})


def test_orientations_sizes_and_photometric_interpretations_are_apart() -> None:
    slices = [one("a", 0), one("b", 1), one("c", 0, kind="coronal"), one("d", 2, inverted=True), one("e", None)]
    assert orders(slices) == (["ab", "c", "d", "e"], {"orientation": (1, 4, "a")})


def test_slightly_different_directions_are_one_volume() -> None:
    tilted = SliceFacts(geometry=(0.9999, 0.008, 0.0, -0.008, 0.9999, 0.0, 0.0, 0.0, 3.0), instance="t")
    slices = [one("a", 0), Slice(sample_id="t", series="s", size=(8, 8), facts=tilted), one("c", 2)]
    assert orders(slices) == (["atc"], {})


def test_missing_slices_are_counted() -> None:
    assert orders([one(name, place) for name, place in zip("abcde", (0, 1, 2, 5, 6), strict=True)]) == (
        ["abcde"],
        {"gap": (1, 2, "a")},
    )


def test_several_slices_at_every_position_are_volumes() -> None:
    slices = [one(name, i // 2, i) for i, name in enumerate("aAbBcC")]
    assert orders(slices) == (["abc", "ABC"], {"repeated": (1, 2, "A")})
    assert orders(slices[:-1]) == (["aAbBc"], {"uneven": (1, 5, "A")})


def test_a_copy_is_where_the_first_one_is_but_equal_identifiers_alone_make_none() -> None:
    slices = [one("a", 0, instance="1"), one("b", 1, instance="2"), one("c", 0, instance="1")]
    volumes, copies, notes = find_volumes(slices)
    assert (volumes, copies, notes.kinds) == ([[0, 1]], {2: 0}, {"copy": (1, 1, "a")})
    assert orders([one(name, place, instance="1") for place, name in enumerate("abc")]) == (["abc"], {})


def test_series_are_apart_and_each_line_names_a_sample() -> None:
    slices = [one("a", 0), one("b", 1), Slice(sample_id="c", series="t", size=(8, 8), facts=one("c", 7).facts)]
    histograms = [(s.sample_id, count_values(np.full(64, i)).to_bytes()) for i, s in enumerate(slices)]
    windows, notes = choose_windows(slices, histograms, PERCENTILES)
    assert [(w.high, w.slice_index, w.alone) for w in windows.values()] == [(1, 0, False), (1, 1, False), (2, 0, True)]
    assert list(notes.lines()) == []
    _, _, notes = find_volumes([one("a", 0), one("b", 1), one("c", 9)])
    assert list(notes.lines()) == [
        "1 of 1 series have gaps: about 7 slice(s) are missing, and count for no window; the first has 'a'"
    ]


@given(st.permutations("abcdefgh"), st.integers(2, 5))
def test_neither_order_nor_division_changes_a_window(names: list[str], parts: int) -> None:
    generator = np.random.default_rng(0)
    pixels = {name: generator.gamma(2, 90, 64).astype(np.int16) for name in "abcdefgh"}
    slices = [one(name, "abcdefgh".index(name)) for name in names]
    histograms = [(name, count_values(pixels[name]).to_bytes()) for name in names]
    windows, _ = choose_windows(slices, histograms, PERCENTILES)
    expected = np.percentile(np.stack(list(pixels.values())), PERCENTILES)
    assert {(w.low, w.high) for w in windows.values()} == {tuple(expected)}
    assert [windows[name].slice_index for name in "abcdefgh"] == list(range(8))


@given(
    st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
    st.floats(0, 1e5),
    st.floats(1e-3, 5e3),
    st.integers(1, 40_000),
    st.integers(1, 7),
)
def test_percentiles_of_a_histogram_are_those_of_the_pixels(
    dtype: type, centre: float, spread: float, count: int, parts: int
) -> None:
    generator = np.random.default_rng(count)
    values = generator.normal(centre, spread, count)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        values = np.clip(values, np.iinfo(kind).min, np.iinfo(kind).max)
    pixels = values.astype(kind)
    low, high = np.percentile(pixels.astype(np.float64), PERCENTILES)
    whole = count_values(pixels)
    merged = merge(count_values(part) for part in np.array_split(pixels, parts))
    assert whole.total == merged.total == count
    for histogram in (whole, merged, Histogram.from_bytes(merged.to_bytes())):
        found = histogram.percentiles(PERCENTILES)
        assert np.abs(np.subtract(found, (low, high))).max() <= max((high - low) / 510, 1e-6 * abs(high), 1e-6)


def test_values_that_are_not_finite_are_not_counted() -> None:
    pixels = np.array([np.nan, np.inf, -np.inf, 3.0, 4.0])
    assert count_values(pixels).total == 2
    assert count_values(np.repeat(pixels, 10_000)).total == 20_000
    assert count_values(np.full(9, np.nan)).percentiles(PERCENTILES) == (0.0, 0.0)
    assert merge([]).percentiles(PERCENTILES) == (0.0, 0.0)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("bright", "empty"), [(0, True), (1, False), (200, False)])
def test_a_slice_is_empty_if_less_than_one_percent_is_bright(bright: int, empty: bool, inverted: bool) -> None:
    pixels = np.zeros(100, np.int16)
    pixels[:bright] = 100
    pixels = 1000 - pixels if inverted else pixels
    histogram = count_values(pixels)
    facts = SliceFacts(bright=histogram.brightest(bright_rank(100), inverted=inverted), inverted=inverted)
    assert is_background(facts, (0, 1000)) is empty
    assert is_background(SliceFacts(bright=histogram.brightest(101), inverted=inverted), (0, 1000))
