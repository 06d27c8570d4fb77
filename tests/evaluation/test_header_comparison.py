"""The header-only control beside a model."""

import numpy as np
import pyarrow as pa
import pytest

from brainscale.dataset import header_control
from brainscale.evaluation.header_comparison import HeaderComparison, compare_with_headers
from brainscale.stats.labelled import LabelledProbabilities
from tests.support.samples import CLASSES, labelled


def manifest(labels: np.ndarray, nbytes: np.ndarray, classes: tuple[str, ...] = CLASSES) -> pa.Table:
    """A manifest whose files tell their label by their size, or by nothing."""
    ids = [f"{i:05}.png" for i in range(len(labels))]
    return pa.table(
        {
            "sample_id": ids,
            "label": [classes[i] for i in labels],
            "group": ids,
            "error_code": pa.nulls(len(ids), pa.string()),
            "nbytes": nbytes,
            **dict.fromkeys(("width", "height"), np.full(len(ids), 64)),
            "mode": ["L"] * len(ids),
        }
    )


def compare(strength: float, shortcut: float, n: int = 120) -> HeaderComparison:
    """A model of some strength beside a control for which the size of files tells some of the label."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    tumour = 1 / (1 + np.exp(-strength * (labels - 0.5) - rng.normal(size=n)))
    table = manifest(labels, (1000 + shortcut * 100 * labels + 100 * rng.normal(size=n)).astype(np.int64))
    samples = labelled(labels, np.stack([1 - tumour, tumour], 1))
    return compare_with_headers(table, table["sample_id"], samples)


@pytest.mark.parametrize(
    ("strength", "shortcut", "verdict", "warns"),
    [
        (6, 0, "The model is better than the control, so file headers alone do not explain its predictions.", False),
        (0.3, 0, "The model is not shown to be better than the control, which sees no picture.", True),
        (0, 6, "The model is no better than the control, which sees no picture.", True),
    ],
)
def test_a_model_that_is_no_better_than_headers_is_found(
    strength: float, shortcut: float, verdict: str, warns: bool
) -> None:
    comparison = compare(strength, shortcut)
    assert (comparison.verdict, comparison.warns) == (verdict, warns)
    assert comparison.model is not None
    assert comparison.control is not None
    assert comparison.difference is not None
    assert comparison.model.value is not None
    assert comparison.control.value is not None
    assert comparison.difference.value == pytest.approx(comparison.model.value - comparison.control.value)


def test_several_classes_are_compared_as_a_tumour_against_none() -> None:
    labels = np.arange(90) % 3
    table = manifest(labels, 1000 + 500 * labels, ("none", "a", "b"))
    samples = labelled(labels, np.eye(3)[labels] * 0.4 + 0.2, ("none", "a", "b"))
    comparison = compare_with_headers(table, table["sample_id"], samples)
    assert comparison.model is not None
    assert comparison.control is not None
    assert comparison.model.value == comparison.control.value == 1
    assert comparison.verdict.startswith("The difference from the control has no interval: ")


def test_the_reason_for_no_control_is_said() -> None:
    table = manifest(np.arange(6) % 2, np.arange(6))
    samples = labelled(np.arange(6) % 2, np.full((6, 2), 0.5))
    few = compare_with_headers(table, table["sample_id"], samples)
    assert not few.warns
    assert "a class has only 3 group(s)" in few.verdict
    undefined = labelled(np.arange(6) % 2, np.full((6, 2), np.nan))
    assert "not a finite number" in compare_with_headers(table, table["sample_id"], undefined).verdict


def test_of_a_large_set_some_samples_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_control, "CONTROL_ROWS", 40)
    labels = np.arange(200) % 2
    rng = np.random.default_rng(0)
    table = manifest(labels, rng.integers(0, 9999, 200))
    tested = np.arange(100, 200)
    tumour = rng.random(100)
    samples = LabelledProbabilities(
        labels=labels[tested], probabilities=np.stack([1 - tumour, tumour], 1), classes=CLASSES
    )
    comparison = compare_with_headers(table, table["sample_id"].take(pa.array(tested)), samples)
    assert comparison.n == 40
    assert comparison.verdict.endswith("which sees no picture.")
