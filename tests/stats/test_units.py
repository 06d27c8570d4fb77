"""Scans and patients from slices: what holds for any probabilities, in any order."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.errors import UsageError
from brainscale.stats.decisions import tumour_probability
from brainscale.stats.delong import delong
from brainscale.stats.units import (
    AGGREGATIONS,
    LabelledUnits,
    Unit,
    UnitScores,
    count_ordered_pairs,
    join_groups,
    label_units,
    require_unit,
)

CLASSES = ("no_tumour", "glioma", "meningioma")
COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("sample_id", "scan", "patient", "label", "error_code")),
        ("novelty", pa.float32()),
        ("empty", pa.bool_()),
        ("probabilities", pa.list_(pa.float32())),
    ]
)


def predictions(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=COLUMNS)


@st.composite
def tables(draw: st.DrawFn, classes: int = 2) -> pa.Table:
    """Slices of a few volumes: scored, empty, or in error."""
    rows = []
    for i in range(draw(st.integers(0, 30))):
        weights = draw(st.lists(st.integers(0, 8), min_size=classes, max_size=classes))
        total = sum(weights)
        values = [weight / total for weight in weights] if total else None
        state = draw(st.sampled_from(["scored", "scored", "empty", "error"]))
        row = {"sample_id": f"v{draw(st.integers(0, 4))}.nii#{i}", "patient": draw(st.sampled_from(["p", "q", None]))}
        row |= {"empty": state == "empty", "error_code": "corrupt" if state == "error" or not values else None}
        rows.append(row | {"probabilities": None if row["error_code"] else values})
    return predictions(*rows)


def facts(scores: UnitScores) -> list[object]:
    arrays = [scores.slices, scores.empty, scores.errors, *map(scores.aggregate, AGGREGATIONS)]
    classes = [scores.class_probabilities(name).tolist() for name in AGGREGATIONS]
    return [
        scores.names.to_pylist(),
        scores.sample_ids.to_pylist(),
        *(repr(array.tolist()) for array in arrays),
        repr(classes),
    ]


@pytest.mark.parametrize("unit", ["scan", "patient"])
@given(table=tables(3), seed=st.integers(0, 99))
def test_units_do_not_depend_on_the_order_of_rows(unit: Unit, table: pa.Table, seed: int) -> None:
    shuffled = table.take(pa.array(np.random.default_rng(seed).permutation(len(table))))
    assert facts(UnitScores.from_predictions(shuffled, unit, 3)) == facts(UnitScores.from_predictions(table, unit, 3))


@given(table=tables(), cut=st.integers(0, 30))
def test_parts_of_a_table_sum_to_the_whole(table: pa.Table, cut: int) -> None:
    parts = [UnitScores.from_predictions(some, "scan", 2) for some in (table.slice(0, cut), table.slice(cut))]
    merged, whole = UnitScores.merge(parts), UnitScores.from_predictions(table, "scan", 2)
    assert (merged.names, merged.sample_ids) == (whole.names, whole.sample_ids)
    for name in AGGREGATIONS:
        assert np.allclose(merged.aggregate(name), whole.aggregate(name), atol=1e-12, equal_nan=True)


@given(probabilities=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_a_unit_of_one_slice_is_that_slice(probabilities: list[float]) -> None:
    rows = [
        {"sample_id": f"{i:02d}.png", "probabilities": [1 - p, 0.75 * p, 0.25 * p]} for i, p in enumerate(probabilities)
    ]
    table = predictions(*rows)
    scores, slices = UnitScores.from_predictions(table, "scan", 3), np.array(table["probabilities"].to_pylist())
    for name in AGGREGATIONS:
        assert (scores.class_probabilities(name) == slices).all()
        assert (scores.aggregate(name) == tumour_probability(slices)).all()


@given(
    slices=st.lists(st.integers(0, 64), min_size=1, max_size=12),
    which=st.integers(0, 11),
    more=st.integers(0, 64),
)
def test_a_higher_slice_never_lowers_its_scan(slices: list[int], which: int, more: int) -> None:
    which %= len(slices)
    higher = [min(64, value + more) if i == which else value for i, value in enumerate(slices)]
    before, after = (
        UnitScores.from_predictions(
            predictions(
                *({"sample_id": f"v#{i}", "probabilities": [1 - v / 64, v / 64]} for i, v in enumerate(values))
            ),
            "scan",
            2,
        )
        for values in (slices, higher)
    )
    for name in AGGREGATIONS:
        assert after.aggregate(name)[0] >= before.aggregate(name)[0] - 1e-12
        assert min(slices) / 64 - 1e-12 <= before.aggregate(name)[0] <= 1


def test_the_four_aggregations_by_hand() -> None:
    values = [0.5, 0.25, 0.75, 0.125]
    table = predictions(
        *({"sample_id": f"v#{i}", "probabilities": [1 - v, v]} for i, v in enumerate(values)),
        {"sample_id": "v#8", "probabilities": [0, 1], "empty": True},
        {"sample_id": "v#9", "error_code": "corrupt"},
    )
    scores = UnitScores.from_predictions(table, "scan", 2)
    assert [scores.slices[0], scores.empty[0], scores.errors[0]] == [4, 1, 1]
    assert scores.sample_ids.to_pylist() == ["v#2"]
    expected = {"maximum": 0.75, "mean": 1.625 / 4, "top_mean": 0.5, "noisy_or": 1 - 0.5 * 0.75 * 0.25 * 0.875}
    assert {name: pytest.approx(scores.aggregate(name)[0]) for name in AGGREGATIONS} == expected


def test_kinds_of_tumour_share_the_probability_of_a_tumour_as_they_do_over_the_slices() -> None:
    table = predictions(
        {"sample_id": "v#0", "probabilities": [0.5, 0.5, 0]},
        {"sample_id": "v#1", "probabilities": [0.75, 0.125, 0.125]},
    )
    scores = UnitScores.from_predictions(table, "scan", 3)
    assert scores.class_probabilities("maximum")[0] == pytest.approx([0.5, 0.5 * 0.625 / 0.75, 0.5 * 0.125 / 0.75])


def test_a_tumour_on_any_slice_makes_a_tumour_of_the_most_frequent_kind() -> None:
    units = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 4])
    labels = np.array([0, 0, 1, 0, -1, 1, 2, -1, 2, 2, 1])
    assert label_units(units, labels, 5, 3).tolist() == [1, 0, 1, -1, 2]


def test_units_that_share_a_group_are_one_group_also_by_way_of_others() -> None:
    units, groups = np.array([0, 0, 1, 1, 2, 3]), np.array([5, 6, 6, -1, 7, -1])
    joined = join_groups(units, groups, 4)
    assert joined[0] == joined[1]
    assert len(set(joined)) == 3


def test_labelled_units_leave_out_what_has_no_label_or_no_slice() -> None:
    table = predictions(
        {"sample_id": "a#0", "patient": "p", "label": "glioma", "probabilities": [0.5, 0.25, 0.25]},
        {"sample_id": "a#1", "patient": "p", "label": "no_tumour", "probabilities": [1, 0, 0]},
        {"sample_id": "b#0", "patient": "q", "label": "no_tumour", "error_code": "corrupt"},
        {"sample_id": "c#0", "patient": "r", "probabilities": [1, 0, 0]},
        {"sample_id": "d#0", "label": "no_tumour", "probabilities": [1, 0, 0]},
    )
    groups = pa.table({"sample_id": ["d#0", "a#0"], "group": ["g", "g"]})
    patients = LabelledUnits.from_predictions(table, "patient", CLASSES, groups)
    assert (patients.scores.names.to_pylist(), patients.counted.tolist()) == (["p", "q", "r"], [True, False, False])
    scans = LabelledUnits.from_predictions(table, "scan", CLASSES, groups)
    samples = scans.samples("maximum", 0.5)
    assert (samples.labels.tolist(), samples.tumour_probability.tolist()) == ([1, 0], [0.5, 0])
    assert len(set(samples.codes)) == 1  # a and d share a group


@given(
    scores=st.lists(st.integers(0, 5), min_size=2, max_size=30),
    labels=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_ordered_pairs_are_the_area_under_the_curve(scores: list[int], labels: list[bool]) -> None:
    has_tumour, values = np.array(labels[: len(scores)]), np.array(scores, np.float64)
    if has_tumour.all() or not has_tumour.any():
        return
    auroc, _ = delong(values, has_tumour, np.arange(len(values)))
    pairs = 2 * int(has_tumour.sum()) * int((~has_tumour).sum())
    assert count_ordered_pairs(has_tumour, values) / pairs == pytest.approx(auroc)


def test_a_unit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="no unit named 'series': choose scan or patient"):
        require_unit("series", ("scan", "patient"))
