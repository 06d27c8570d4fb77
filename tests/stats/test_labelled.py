"""Labels and probabilities from anywhere: what compute_metrics and its samples accept and refuse."""

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale.errors import UsageError
from brainscale.schema import METRICS
from brainscale.stats.labelled import LabelledProbabilities, values_of
from brainscale.stats.metrics import compute_metrics
from brainscale.stats.resampling import group_codes
from tests.support.samples import estimates, labelled, two_columns

SCORES = [0.1, 0.7, 0.4, 0.9]


@pytest.mark.parametrize(
    ("labels", "probabilities", "options", "message"),
    [
        ([0, 1, 0], two_columns(SCORES), {}, r"probabilities have shape \[4, 2\] for 3 labels and 2 classes: give"),
        ([0, 1, 0, 1], np.ones((4, 2, 1)), {}, r"probabilities have shape \[4, 2, 1\]: give \[samples, classes\]"),
        ([0, 1, 0, 1], np.ones((4, 1)), {}, "two or more classes: 1 given"),
        ([0, 1, 0, 2], two_columns(SCORES), {}, "label 2 is not a class index: there are 2 classes, 0 to 1"),
        ([0, 1, 0, -1], two_columns(SCORES), {}, "label -1 is not a class index"),
        ([0, 1, 0, 0.5], two_columns(SCORES), {}, "labels are not whole numbers: give class indices, 0 to 1"),
        (["no", "yes", "no", "yes"], two_columns(SCORES), {}, "labels are not whole numbers"),
        ([[0, 1, 0, 1]], two_columns(SCORES), {}, r"labels have shape \[1, 4\]"),
        ([0, 1, 0, 1], [[0.5, 0.5], [0.5]], {}, "probabilities and thresholds are not arrays of numbers"),
        ([0, 1, 0, 1], [-3.0, 2.0, 0.4, 1.7], {}, "is not a probability: give values from 0 to 1, no logits"),
        ([0, 1, 0, 1], two_columns(SCORES) * [1, 0.5], {}, "the probabilities of sample 0 sum to 0.95"),
        ([0, 1, 0, 1], SCORES, {"classes": ["a", "b", "c"]}, "for 4 labels and 3 classes"),
        ([0, 1, 0, 1], SCORES, {"threshold": [0.5, 0.5]}, "2 thresholds for 4 samples"),
        ([0, 1, 0, 1], SCORES, {"threshold": np.nan}, "a threshold is not a finite number"),
        ([0, 1, 0, 1], SCORES, {"groups": ["a", "b"]}, "2 groups for 4 samples"),
    ],
)
def test_what_is_not_labels_and_probabilities_is_refused(
    labels: Any, probabilities: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        compute_metrics(labels, probabilities, **options)
    assert "\n" not in str(error.value)


def test_lists_other_types_and_the_probability_of_a_tumour_alone_are_accepted() -> None:
    expected = compute_metrics(np.array([0, 1, 0, 1]), two_columns(SCORES), threshold=0.4)
    assert expected.schema == METRICS
    assert compute_metrics([False, True, False, True], two_columns(SCORES).tolist(), threshold=0.4).equals(expected)
    assert compute_metrics(pa.array([0, 1, 0, 1]), np.array(SCORES), threshold=[0.4] * 4).equals(expected)
    assert compute_metrics([0.0, 1.0, 0.0, 1.0], SCORES, threshold=0.4, groups=[None] * 4).equals(expected)


def test_a_score_may_be_the_threshold() -> None:
    """1 − (1 − 0.1) is below 0.1: the threshold is rounded in the same way."""
    assert 1 - (1 - 0.1) < 0.1
    assert estimates([0, 1], [0.05, 0.1], threshold=0.1)["sensitivity"].value == 1


def test_more_classes_have_numbers_for_names() -> None:
    probabilities = np.random.default_rng(0).dirichlet((1, 1, 1), 12).astype(np.float32)
    named = [name for name in estimates(np.arange(12) % 3, probabilities) if name.startswith("auroc_")]
    assert named == ["auroc_class_0", "auroc_class_1", "auroc_class_2"]


def test_samples_without_a_group_are_groups_of_their_own() -> None:
    labels, scores = np.arange(12) % 2, np.linspace(0.1, 0.9, 12)
    alone = compute_metrics(labels, scores)
    assert compute_metrics(labels, scores, groups=[None, float("nan")] * 6).equals(alone)
    assert compute_metrics(labels, scores, groups=["p"] * 3 + [None] * 9)["method"][0].as_py() == "Wilson by group"


def test_predictions_become_samples_where_they_have_a_label_and_probabilities() -> None:
    table = pa.table(
        {
            "sample_id": ["a", "b", "c", "d"],
            "label": ["tumour", None, "no_tumour", "tumour"],
            "probabilities": pa.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1], None], pa.list_(pa.float32())),
        }
    )
    groups = pa.table({"sample_id": ["c", "a", "d"], "group": ["patient", "patient", None]})
    samples = LabelledProbabilities.from_predictions(table, ("no_tumour", "tumour"), threshold=0.4, groups=groups)
    assert (samples.labels.tolist(), samples.groups is not None and samples.groups.tolist()) == ([1, 0], [0, 0])
    assert samples.tumour_probability == pytest.approx([0.8, 0.1])
    assert samples.predicted.tolist() == [1, 0]
    with pytest.raises(UsageError, match="label 'no_tumour' is not a class of the model: none, tumour"):
        LabelledProbabilities.from_predictions(table, ("none", "tumour"))
    assert len(LabelledProbabilities.from_predictions(table.slice(3), ("no_tumour", "tumour"))) == 0


@given(st.lists(st.none() | st.text(), max_size=8), st.integers(1, 3))
def test_groups_have_the_same_numbers_from_arrow_and_from_python(names: list[str | None], pieces: int) -> None:
    size = max(1, len(names) // pieces)
    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    assert group_codes(pa.chunked_array(chunks, pa.string())).tolist() == group_codes(names).tolist()


def test_values_come_in_the_order_of_the_samples_whatever_that_of_the_table() -> None:
    table = pa.table({"sample_id": ["b", "a", "c"], "site": ["B", None, "C"]})
    for ids, sites in ((["c", "x", "b", "a"], ["C", None, "B", None]), (["b", "a", "c"], ["B", None, "C"])):
        assert values_of(pa.chunked_array([ids]), table, "site").to_pylist() == sites


def test_a_part_of_the_samples_keeps_thresholds_and_groups() -> None:
    samples = labelled([0, 1, 0, 1], two_columns(SCORES), threshold=np.array([0.1, 0.2, 0.3, 0.4]), groups="abca")
    part = samples.take(np.array([False, True, False, True]))
    assert part.labels.tolist() == [1, 1]
    assert np.array_equal(part.threshold, [0.2, 0.4])
    assert part.codes.tolist() == [1, 0]


def test_metrics_need_neither_ray_nor_torch() -> None:
    code = "import sys; from brainscale.stats.metrics import compute_metrics; compute_metrics([0, 1], [0.2, 0.9])"
    code += "; assert not {'ray', 'torch'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
