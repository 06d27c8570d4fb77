import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from brainscale import metrics
from brainscale.calls import predicted
from brainscale.schema import METRICS

CLASSES = ("no_tumour", "tumour")


def binary(scores: list[float]) -> np.ndarray:
    column = np.array(scores, np.float64)
    return np.stack([1 - column, column], 1)


def test_the_published_row_from_its_own_counts() -> None:
    """BrainMRNet on 50 images: 28 of 30 tumours and 16 of 20 normals right."""
    labels = np.array([1] * 30 + [0] * 20)
    scores = [0.9] * 28 + [0.1] * 2 + [0.1] * 16 + [0.9] * 4
    table = metrics.evaluate(labels, binary(scores), CLASSES)
    assert table.schema == METRICS
    rows = metrics.as_mapping(table)
    published = {
        "accuracy": 0.88,
        "sensitivity": 0.9333,
        "specificity": 0.8,
        "macro_precision": 0.8819,
        "macro_recall": 0.8667,
    }
    for name, value in published.items():
        assert rows[name]["value"] == pytest.approx(value, abs=5e-5), name
    assert (rows["accuracy"]["low"], rows["accuracy"]["high"]) == pytest.approx((0.762, 0.944), abs=5e-4)


def test_wilson_of_the_published_densenet() -> None:
    assert metrics.wilson(47, 50) == pytest.approx((0.838, 0.979), abs=5e-4)


samples = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60)


@given(samples)
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score / 20 for _, score in pairs])
    rows = metrics.as_mapping(metrics.evaluate(labels, binary(list(scores)), CLASSES))
    called = (scores >= 0.5).astype(int)
    assert rows["accuracy"]["value"] == pytest.approx(oracle.accuracy_score(labels, called))
    if set(labels) == {0, 1}:
        assert rows["auroc"]["value"] == pytest.approx(oracle.roc_auc_score(labels, scores))
        assert rows["sensitivity"]["value"] == pytest.approx(oracle.recall_score(labels, called))
        assert rows["specificity"]["value"] == pytest.approx(oracle.recall_score(labels, called, pos_label=0))
        for name, function in (("macro_precision", oracle.precision_score), ("macro_recall", oracle.recall_score)):
            assert rows[name]["value"] == pytest.approx(function(labels, called, average="macro", zero_division=0))
    for row in rows.values():
        assert row["value"] is not None or row["reason"]
        if row["low"] is not None and row["method"] != "bootstrap":
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1


def test_delong_by_hand() -> None:
    """The definition, pair by pair (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988)."""
    generator = np.random.default_rng(0)
    positive, negative = generator.integers(3, 12, 17) / 10, generator.integers(0, 9, 11) / 10
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = wins.mean(1).var(ddof=1) / 17 + wins.mean(0).var(ddof=1) / 11
    assert metrics.delong(positive, negative) == pytest.approx((wins.mean(), variance))


@pytest.mark.parametrize(
    ("labels", "scores", "absent"),
    [([1, 1, 1], [0.2, 0.7, 0.9], "no_tumour"), ([0, 0], [0.2, 0.7], "tumour"), ([], [], "no_tumour")],
)
def test_a_class_that_is_absent_gives_nulls_with_reasons(labels: list[int], scores: list[float], absent: str) -> None:
    rows = metrics.as_mapping(metrics.evaluate(np.array(labels, int), binary(scores), CLASSES))
    assert rows["auroc"]["value"] is None
    assert rows["auroc"]["reason"] == f"no sample of class {absent}"
    assert rows["macro_recall"]["value"] is None


def test_constant_scores_and_three_samples() -> None:
    rows = metrics.as_mapping(metrics.evaluate(np.array([0, 1, 1]), binary([0.5, 0.5, 0.5]), CLASSES))
    assert rows["auroc"]["value"] == 0.5
    assert rows["auroc"]["reason"] == "no interval: a class has one sample"


def test_perfect_separation_claims_no_certainty() -> None:
    rows = metrics.as_mapping(metrics.evaluate(np.array([0, 0, 1, 1]), binary([0.1, 0.2, 0.8, 0.9]), CLASSES))
    assert (rows["auroc"]["value"], rows["auroc"]["low"]) == (1.0, None)
    assert rows["auroc"]["reason"].startswith("no interval")


def test_macro_intervals_rest_on_resamples_with_every_class() -> None:
    """A resample without a class would count its recall as 0, though nothing was called wrongly."""
    labels = np.array([0, 0, 1, 1])
    constant = metrics.as_mapping(metrics.evaluate(labels, binary([0.5] * 4), CLASSES))["macro_recall"]
    perfect = metrics.as_mapping(metrics.evaluate(labels, binary([0.1, 0.2, 0.8, 0.9]), CLASSES))["macro_recall"]
    for row, value in ((constant, 0.5), (perfect, 1.0)):
        assert (row["value"], row["low"], row["high"]) == (value, None, None)
        assert row["reason"] == "no interval: every resample gives the same figure"
    many = metrics.as_mapping(metrics.evaluate(np.arange(12), np.eye(12), [str(i) for i in range(12)]))
    assert many["macro_precision"]["reason"] == "no interval: too few samples of some class"


def test_a_probability_that_is_no_number_gives_nulls() -> None:
    """Compared with the threshold, it would pass for a healthy sample."""
    rows = metrics.as_mapping(metrics.evaluate(np.array([0, 1, 1]), binary([0.1, np.nan, 0.9]), CLASSES))
    assert tuple(rows) == metrics.METRIC_NAMES
    assert all(r["value"] is None and r["reason"] == "a probability is not a finite number" for r in rows.values())


def test_more_than_two_classes() -> None:
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    probabilities = generator.dirichlet(np.ones(3), 60) * 0.5 + np.eye(3)[labels] * 0.5
    rows = metrics.as_mapping(metrics.evaluate(labels, probabilities, ("none", "glioma", "meningioma")))
    called = probabilities.argmax(1)
    assert rows["accuracy"]["value"] == pytest.approx(oracle.accuracy_score(labels, called))
    expected = oracle.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert rows["auroc"]["value"] == pytest.approx(expected)
    assert rows["sensitivity"]["value"] == pytest.approx(((called > 0) & (labels > 0)).sum() / (labels > 0).sum())


def test_the_threshold_moves_calls() -> None:
    probabilities = binary([0.2, 0.4, 0.6])
    assert predicted(probabilities, 0.4).tolist() == [0, 1, 1]
    assert predicted(probabilities, 0.61).tolist() == [0, 0, 0]
