"""Metrics of more than two classes: values of scikit-learn, names that say what they are, one threshold for all."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from brainscale.errors import UsageError
from brainscale.stats import bootstrap, metrics
from brainscale.stats.confusion import confusion_table
from brainscale.stats.decisions import predicted_classes
from brainscale.stats.estimate import estimates_of
from brainscale.stats.metric_names import metric_name
from brainscale.stats.multiclass import (
    ANY_TUMOUR,
    OF_ALL_CLASSES,
    OF_ANY_TUMOUR,
    OF_EACH_CLASS,
    sort_into_blocks,
    tumour_against_none,
)
from tests.stats.test_metrics import ece_by_hand
from tests.support.samples import estimates, labelled, two_columns

NAMES = ("none", "glioma", "meningioma", "pituitary")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 100)  # this is about values


def random_case(seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Labels of four classes, all there, and probabilities that are often right."""
    draw = np.random.default_rng(seed)
    labels = np.r_[0:4, draw.integers(0, 4, n - 4)]
    return labels, draw.dirichlet(np.ones(4), n) * 0.75 + np.eye(4)[labels] * 0.25


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_values_are_those_of_scikit_learn(threshold: float) -> None:
    labels, probabilities = random_case(1)
    rows = estimates(labels, probabilities, classes=NAMES, threshold=threshold)
    tumour = 1 - probabilities[:, 0]
    predicted = np.where(tumour >= threshold, 1 + probabilities[:, 1:].argmax(1), 0)
    any_label, any_predicted = labels > 0, predicted > 0
    expected = {
        "accuracy": oracle.accuracy_score(labels, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
        "macro_auroc": oracle.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "macro_average_precision": oracle.average_precision_score(np.eye(4)[labels], probabilities, average="macro"),
        "macro_f1": oracle.f1_score(labels, predicted, average="macro"),
        "mcc": oracle.matthews_corrcoef(labels, predicted),
        "macro_precision": oracle.precision_score(labels, predicted, average="macro", zero_division=0),
        "macro_recall": oracle.recall_score(labels, predicted, average="macro"),
        "brier": oracle.brier_score_loss(labels, probabilities),
        "log_loss": oracle.log_loss(labels, probabilities),
        "ece": ece_by_hand(probabilities.argmax(1) == labels, probabilities.max(1)),
        "tumour_accuracy": oracle.accuracy_score(any_label, any_predicted),
        "tumour_auroc": oracle.roc_auc_score(any_label, tumour),
        "tumour_average_precision": oracle.average_precision_score(any_label, tumour),
        "tumour_sensitivity": oracle.recall_score(any_label, any_predicted),
        "tumour_specificity": oracle.recall_score(any_label, any_predicted, pos_label=0),
        "tumour_ppv": oracle.precision_score(any_label, any_predicted),
        "tumour_npv": oracle.precision_score(any_label, any_predicted, pos_label=0),
        "tumour_f1": oracle.f1_score(any_label, any_predicted),
        "tumour_mcc": oracle.matthews_corrcoef(any_label, any_predicted),
        "tumour_brier": oracle.brier_score_loss(any_label, tumour),
        "tumour_ece": ece_by_hand(any_label, tumour),
    }
    for i, name in enumerate(NAMES):
        of_class, called = labels == i, predicted == i
        expected |= {
            f"sensitivity_{name}": oracle.recall_score(of_class, called),
            f"specificity_{name}": oracle.recall_score(of_class, called, pos_label=0),
            f"ppv_{name}": oracle.precision_score(of_class, called),
            f"npv_{name}": oracle.precision_score(of_class, called, pos_label=0),
            f"auroc_{name}": oracle.roc_auc_score(of_class, probabilities[:, i]),
        }
    for name, value in expected.items():
        assert rows[name].value == pytest.approx(value), name
        assert rows[name].low < rows[name].high, name  # type: ignore[operator]
    assert set(rows) - set(expected) == {"tumour_calibration_slope", "tumour_calibration_intercept"}
    assert (rows["macro_auroc"].method, rows["auroc_glioma"].method) == ("bootstrap", "DeLong")
    assert {rows[f"{name}_glioma"].method for name in OF_EACH_CLASS[:4]} == {"Wilson"}


def test_no_name_of_a_two_class_metric_stands_for_another_thing() -> None:
    """Plain sensitivity, specificity, AUROC … are a tumour's against none: more classes have none of them."""
    rows = estimates(*random_case(2), classes=NAMES, prevalence=0.1)
    assert not set(rows) & {"auroc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1"}
    blocks = sort_into_blocks(rows, NAMES)
    assert list(blocks.together) == list(OF_ALL_CLASSES)
    assert list(blocks.any_tumour) == [f"tumour_{name}" for name in OF_ANY_TUMOUR]
    assert {name: list(own) for name, own in blocks.by_class.items()} == {
        name: [f"{metric}_{name}" for metric in OF_EACH_CLASS] for name in NAMES
    }
    two = estimates([0, 1, 1, 0], [0.2, 0.7, 0.4, 0.6])
    assert sort_into_blocks(two, ("no_tumour", "tumour")).together == list(metrics.METRIC_NAMES)


def test_every_metric_has_a_name_of_its_own_for_people() -> None:
    rows = estimates(*random_case(2), classes=NAMES, prevalence=0.1)
    names = [metric_name(name, 0.1) for name in rows]
    assert len({known.name for known in names}) == len(rows)
    assert all(known.about and known.name != metric for metric, known in zip(rows, names, strict=True))
    shown = [metric_name(name, 0.1).name for name in ("sensitivity_glioma", "tumour_sensitivity", "tumour_auroc")]
    assert shown == ["Sensitivity of glioma", "Tumour sensitivity", "Tumour AUROC"]
    assert metric_name("tumour_ppv_at_prevalence", 0.1).name == "Tumour PPV at a prevalence of 10 %"


def test_a_tumour_against_none_is_what_two_classes_say() -> None:
    labels, probabilities = random_case(3)
    groups = np.arange(80) // 3
    rows = estimates(labels, probabilities, classes=NAMES, threshold=0.6, groups=groups, prevalence=0.1)
    two = labelled(labels > 0, two_columns(1 - probabilities[:, 0]), threshold=0.6, groups=groups)
    expected = estimates_of(metrics.measure(two, 0.1))
    assert {name: rows[f"tumour_{name}"] for name in OF_ANY_TUMOUR} == {name: expected[name] for name in OF_ANY_TUMOUR}
    assert rows["sensitivity_glioma"].method == "Wilson by group"


def test_a_class_that_is_absent_gives_nulls_with_reasons() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    rows = estimates(np.arange(30) % 2, probabilities, classes=NAMES[:3])
    for name in ("macro_auroc", "auroc_meningioma", "sensitivity_meningioma", "macro_f1", "balanced_accuracy"):
        assert (rows[name].value, rows[name].reason) == (None, "no sample of class meningioma")
    assert rows["auroc_glioma"].low is not None
    assert rows["tumour_auroc"].low is not None
    assert rows["accuracy"].value is not None
    alone = estimates(np.ones(5, int), probabilities[:5], classes=NAMES[:3])
    assert (
        alone["auroc_glioma"].reason == alone["specificity_glioma"].reason == "no sample of another class than glioma"
    )
    assert alone["tumour_auroc"].reason == "no sample of class none"
    never = estimates(np.arange(9) % 3, np.tile([0.2, 0.5, 0.3], (9, 1)), classes=NAMES[:3])
    assert never["ppv_meningioma"].reason == "no sample is predicted to be meningioma"
    assert never["npv_glioma"].reason == "every sample is predicted to be glioma"


def test_a_probability_that_is_no_number_leaves_no_value() -> None:
    labels, probabilities = random_case(4)
    probabilities[5, 2] = np.nan
    rows = estimates(labels, probabilities, classes=NAMES)
    assert len(rows) == len(OF_ALL_CLASSES) + 4 * len(OF_EACH_CLASS) + len(OF_ANY_TUMOUR) - 2
    assert {(row.value, row.reason) for row in rows.values()} == {(None, "a probability is not a finite number")}
    assert all(row.value is None for row in estimates([], np.empty((0, 4)), classes=NAMES).values())


def test_the_confusion_matrix_as_a_table() -> None:
    labels, probabilities = random_case(5)
    samples = labelled(labels, probabilities, NAMES)
    rows = confusion_table(samples).to_pylist()
    counts = oracle.confusion_matrix(labels, samples.predicted)
    assert [row["samples"] for row in rows] == counts.ravel().tolist()
    assert (rows[1]["label"], rows[1]["prediction"]) == ("none", "glioma")


rows_of_probabilities = st.lists(
    st.tuples(st.integers(0, 3), st.tuples(*[st.integers(0, 20)] * 4).filter(any)), min_size=1, max_size=40
)


@given(rows_of_probabilities, st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_what_holds_for_all_inputs(rows: list[tuple[int, tuple[int, ...]]], threshold: float, random: Random) -> None:
    """One threshold decides tumour or none; a kind beats the others; the order of the samples changes nothing."""
    labels = np.array([label for label, _ in rows])
    probabilities = np.array([counts for _, counts in rows], np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    samples = labelled(labels, probabilities, NAMES, threshold)
    predicted, has_tumour = samples.predicted, 1 - probabilities[:, 0] >= threshold
    assert ((predicted > 0) == has_tumour).all()
    assert (predicted == tumour_against_none(samples).predicted).sum() == ((predicted <= 1).sum())
    kinds = probabilities[has_tumour, 1:]
    assert (kinds[np.arange(len(kinds)), predicted[has_tumour] - 1] == kinds.max(1)).all()
    table = metrics.measure(samples)
    values = estimates_of(table)
    for name, row in values.items():
        assert row.value is not None or row.reason, name
        if row.low is not None:
            assert row.low <= row.value <= row.high, name  # type: ignore[operator]
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    assert metrics.measure(samples.take(np.array(shuffled))).equals(table)
    right = sum((values[f"sensitivity_{name}"].value or 0) * (labels == i).sum() for i, name in enumerate(NAMES))
    assert values["accuracy"].value == pytest.approx(right / len(rows))


def test_the_name_of_any_tumour_is_of_no_class() -> None:
    assert tumour_against_none(labelled(*random_case(6), NAMES)).classes == ("none", ANY_TUMOUR)
    with pytest.raises(UsageError, match="there are 4 classes"):
        estimates([4], np.full((1, 4), 0.25), classes=NAMES)
    assert predicted_classes(np.empty((0, 4)), 0.5).shape == (0,)
