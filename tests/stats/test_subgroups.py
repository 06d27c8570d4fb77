import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.errors import UsageError
from brainscale.schema import SUBGROUPS
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from brainscale.stats.subgroups import cut_ranges, measure_subgroups
from tests.support.samples import LONG, labelled, two_columns


def case(n: int, threshold: float = 0.5, groups: list[str] | None = None) -> LabelledProbabilities:
    labels = np.arange(n) % 2
    logits = np.random.default_rng(n).normal(size=n) + 2 * labels - 1
    return labelled(labels, two_columns(1 / (1 + np.exp(-logits))), threshold=threshold, groups=groups)


def test_a_subgroup_has_the_metrics_of_its_samples_alone() -> None:
    samples = case(70, 0.4, [f"p{i // 2}" for i in range(70)])
    values = ["GE"] * 30 + [None] * 10 + ["Siemens"] * 30
    table = measure_subgroups(samples, values, column="scanner")
    assert table.schema == SUBGROUPS
    rows = table.to_pylist()
    assert list(dict.fromkeys((r["column"], r["subgroup"], r["samples"]) for r in rows)) == [
        ("scanner", "GE", 30),
        ("scanner", "Siemens", 30),
        ("scanner", None, 10),
    ]
    alone = measure(samples.take(np.arange(40, 70))).to_pylist()
    ours = [r for r in rows if r["subgroup"] == "Siemens"]
    assert [(r["metric"], r["value"], r["low"], r["n"], r["method"]) for r in ours] == [
        (r["metric"], r["value"], r["low"], r["n"], r["method"]) for r in alone
    ]


def test_small_subgroups_have_no_metrics() -> None:
    samples, values = case(60), np.array(["a"] * 19 + ["b"] * 41)
    rows = measure_subgroups(samples, values, column="sex").to_pylist()
    small = [r for r in rows if r["subgroup"] == "a"]
    assert {(r["value"], r["low"], r["high"], r["method"]) for r in small} == {(None, None, None, None)}
    assert {r["reason"] for r in small} == {"fewer than 20 samples"}
    assert {r["n"] for r in small} == {19}  # not how many have a tumour, or are predicted to have one
    assert len(small) == len(rows) / 2
    kept = measure_subgroups(samples, values, column="sex", smallest=19).to_pylist()
    assert kept[0]["value"] is not None


def test_a_subgroup_of_one_class_has_no_auroc() -> None:
    samples = case(60)
    rows = measure_subgroups(samples, samples.has_tumour, column="yes").to_pylist()
    assert {r["subgroup"] for r in rows} == {"False", "True"}  # truth values are no numbers
    auroc = next(r for r in rows if (r["subgroup"], r["metric"]) == ("True", "auroc"))
    assert (auroc["value"], auroc["reason"]) == (None, "no sample of class no_tumour")


def test_numbers_are_cut_into_thirds() -> None:
    rows = measure_subgroups(case(90), [float("nan"), None, *range(88)], column="width", smallest=1).to_pylist()
    sizes = dict.fromkeys((r["subgroup"], r["samples"]) for r in rows)
    assert list(sizes) == [("up to 29", 30), ("above 29 up to 58", 29), ("above 58", 29), (None, 2)]


@given(st.lists(st.floats(-1e3, 1e3) | st.integers(0, 3).map(float), min_size=1, max_size=80).map(np.array))
@settings(max_examples=100 if LONG else 40)
def test_each_number_is_in_one_third_and_equal_ones_in_the_same(values: np.ndarray) -> None:
    thirds = cut_ranges(values)
    members = [in_range for _, in_range in thirds]
    assert (np.sum(members, 0) == 1).all()
    assert all(in_range.any() for in_range in members)
    assert len(members) <= 3
    assert len({name for name, _ in thirds}) == len(members)
    assert sum(len(set(values[in_range])) for in_range in members) == len(set(values))


def test_one_number_for_all_is_one_range() -> None:
    assert [name for name, _ in cut_ranges(np.full(9, 512.0))] == ["all"]


def test_no_samples_and_too_few_values() -> None:
    samples = case(4)
    assert len(measure_subgroups(samples.take(np.arange(0)), [], column="x")) == 0
    with pytest.raises(UsageError, match="column x has 3 values for 4 samples"):
        measure_subgroups(samples, [1, 2, 3], column="x")


def test_the_size_of_tumours_is_cut_into_quarters_of_those_with_one() -> None:
    samples = case(200)
    sizes = np.where(samples.has_tumour, np.arange(200), 0).tolist()
    sizes[1], sizes[0] = None, None  # a tumour of unknown size, and a sample without one
    rows = measure_subgroups(samples, sizes, column="mask_pixels", smallest=1).to_pylist()
    found = dict.fromkeys((r["subgroup"], r["samples"]) for r in rows)
    expected = [("up to 51", 25), ("above 51 up to 101", 25), ("above 101 up to 149", 24), ("above 149", 25), (None, 1)]
    assert list(found) == expected
    by_name = {(r["subgroup"], r["metric"]): r for r in rows}
    large = samples.take(np.array([size is not None and size > 149 for size in sizes]))
    assert large.has_tumour.all()
    sensitivity = by_name["above 149", "sensitivity"]
    assert sensitivity["value"] == pytest.approx((large.predicted == 1).mean())
    assert sensitivity["low"] < sensitivity["value"] < sensitivity["high"]
    assert by_name["above 149", "specificity"]["value"] is None


def test_numbers_that_samples_without_a_tumour_have_too_are_cut_into_thirds() -> None:
    samples = case(90)
    for values in (range(90), [0] * 90, np.where(samples.has_tumour, 0, np.arange(90)).tolist()):
        rows = measure_subgroups(samples, list(values), column="x", smallest=1).to_pylist()
        assert sum(n for _, n in dict.fromkeys((r["subgroup"], r["samples"]) for r in rows)) == 90
