import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.errors import UsageError
from brainscale.schema import SUBGROUPS
from brainscale.stats import metrics
from brainscale.stats.subgroups import by_column, thirds

CLASSES = ("no_tumour", "tumour")


def case(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    labels = np.arange(n) % 2
    scores = 1 / (1 + np.exp(-generator.normal(size=n) - 2 * labels + 1))
    return labels, np.stack([1 - scores, scores], 1)


def test_a_subgroup_has_the_figures_of_its_samples_alone() -> None:
    labels, probabilities = case(70)
    values = ["GE"] * 30 + [None] * 10 + ["Siemens"] * 30
    groups = [f"p{i // 2}" for i in range(70)]
    table = by_column(labels, probabilities, values, CLASSES, 0.4, column="scanner", groups=groups)
    assert table.schema == SUBGROUPS
    rows = table.to_pylist()
    assert list(dict.fromkeys((r["column"], r["value"], r["samples"]) for r in rows)) == [
        ("scanner", "GE", 30),
        ("scanner", "Siemens", 30),
        ("scanner", None, 10),
    ]
    alone = metrics.compute_metrics(labels[40:], probabilities[40:], CLASSES, 0.4, groups=groups[40:]).to_pylist()
    ours = [r for r in rows if r["value"] == "Siemens"]
    assert [(r["metric"], r["figure"], r["low"], r["n"], r["method"]) for r in ours] == [
        (r["metric"], r["value"], r["low"], r["n"], r["method"]) for r in alone
    ]


def test_small_subgroups_have_no_figures() -> None:
    labels, probabilities = case(60)
    values = np.array(["a"] * 19 + ["b"] * 41)
    rows = by_column(labels, probabilities, values, CLASSES, column="sex").to_pylist()
    small = [r for r in rows if r["value"] == "a"]
    assert {(r["figure"], r["low"], r["high"], r["method"]) for r in small} == {(None, None, None, None)}
    assert {r["reason"] for r in small} == {"fewer than 20 samples"}
    assert {r["n"] for r in small} == {19}  # not how many have a tumour, or are called so
    assert len(small) == len(rows) / 2
    kept = by_column(labels, probabilities, values, CLASSES, column="sex", smallest=19).to_pylist()
    assert kept[0]["figure"] is not None


def test_a_subgroup_of_one_class_says_so() -> None:
    labels, probabilities = case(60)
    rows = by_column(labels, probabilities, labels == 1, CLASSES, column="yes").to_pylist()
    assert {r["value"] for r in rows} == {"False", "True"}  # truth values are no numbers
    auroc = next(r for r in rows if (r["value"], r["metric"]) == ("True", "auroc"))
    assert (auroc["figure"], auroc["reason"]) == (None, "no sample of class no_tumour")


def test_numbers_are_cut_into_thirds() -> None:
    labels, probabilities = case(90)
    values = [float("nan"), None, *range(88)]
    rows = by_column(labels, probabilities, values, CLASSES, column="width", smallest=1).to_pylist()
    sizes = dict.fromkeys((r["value"], r["samples"]) for r in rows)
    assert list(sizes) == [("up to 29", 30), ("above 29 up to 58", 29), ("above 58", 29), (None, 2)]


@given(st.lists(st.floats(-1e3, 1e3) | st.integers(0, 3).map(float), min_size=1, max_size=80).map(np.array))
@settings(max_examples=100)
def test_thirds_part_all_numbers_and_no_equals(values: np.ndarray) -> None:
    parts = [where for _, where in thirds(values)]
    assert (np.sum(parts, 0) == 1).all()
    assert all(where.any() for where in parts)
    assert len(parts) <= 3
    assert len({name for name, _ in thirds(values)}) == len(parts)
    assert sum(len(set(values[where])) for where in parts) == len(set(values))


def test_one_number_for_all_is_one_part() -> None:
    assert [name for name, _ in thirds(np.full(9, 512.0))] == ["all"]


def test_no_samples_and_too_few_values() -> None:
    labels, probabilities = case(4)
    assert len(by_column(labels[:0], probabilities[:0], [], CLASSES, column="x")) == 0
    with pytest.raises(UsageError, match="column x has 3 values for 4 samples"):
        by_column(labels, probabilities, [1, 2, 3], CLASSES, column="x")
