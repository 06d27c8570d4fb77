"""The first sentences of the report, in all their variants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.evaluation.report.summary import (
    IMAGE,
    SLICE,
    Sampling,
    Unit,
    _of_100,
    describe_findings,
    describe_leakage,
    describe_slices,
)
from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from tests.support.samples import LONG, labelled

PATIENT = Unit("patient", "patients")


def of_counts(found: int, missed: int, alarms: int, clear: int) -> LabelledProbabilities:
    """Samples of two classes by outcome; predictions differ by class alone, so that AUROC is that of one point."""
    labels = np.repeat([1, 1, 0, 0], [found, missed, alarms, clear])
    scores = np.repeat([0.9, 0.1, 0.9, 0.1], [found, missed, alarms, clear])
    return labelled(labels, np.stack([1 - scores, scores], 1))


def sentences(samples: LabelledProbabilities, sampling: Sampling | None = None) -> list[str]:
    return describe_findings(samples, estimates_of(measure(samples)), sampling or Sampling())


@pytest.mark.parametrize(
    ("counts", "sampling", "first"),
    [
        (
            (27, 4, 2, 18),
            Sampling(split="test", patients=38),
            "On 51 labelled test images of 38 patients, the model detected a tumour in 27 of 31 images with one "
            "(sensitivity 0.87, 95 % interval 0.71 to 0.95) and predicted none in 18 of 20 images without one "
            "(specificity 0.90, 95 % interval 0.70 to 0.97).",
        ),
        (
            (1, 0, 0, 1),
            Sampling(split="val", patients=1, unit=SLICE),
            "On 2 labelled validation slices of 1 patient, the model detected a tumour in 1 of 1 slice with one "
            "(sensitivity 1.00, 95 % interval 0.21 to 1.00) and predicted none in 1 of 1 slice without one "
            "(specificity 1.00, 95 % interval 0.21 to 1.00).",
        ),
        (
            (1, 0, 0, 0),
            Sampling(),
            "On 1 labelled image, the model detected a tumour in 1 of 1 image with one "
            "(sensitivity 1.00, 95 % interval 0.21 to 1.00).",
        ),
        (
            (0, 0, 1, 2),
            Sampling(patients=3, unit=PATIENT),
            "On 3 labelled patients, the model predicted no tumour in 2 of 3 patients without one "
            "(specificity 0.67, 95 % interval 0.21 to 0.94).",
        ),
    ],
)
def test_the_first_sentence_says_what_the_model_does(
    counts: tuple[int, int, int, int], sampling: Sampling, first: str
) -> None:
    assert sentences(of_counts(*counts), sampling)[0] == first


def test_a_missing_class_is_named() -> None:
    assert "No image is without a tumour, so specificity and AUROC are unknown." in sentences(of_counts(3, 1, 0, 0))
    assert "No image has a tumour, so sensitivity and AUROC are unknown." in sentences(of_counts(0, 0, 1, 3))


def test_ranking_is_told_in_pairs_and_chance_is_called_chance() -> None:
    good, none, swapped = (sentences(of_counts(*n)) for n in ((90, 10, 10, 90), (50, 50, 50, 50), (10, 90, 90, 10)))
    assert [_of_100(share) for share in (0, 0.004, 0.9, 0.996, 1)] == [
        "0 of 100",
        "fewer than 1 of 100",
        "90 of 100",
        "more than 99 of 100",
        "100 of 100",
    ]
    assert good[1].startswith("In 90 of 100 pairs of one image with a tumour and one without, the one with the tumour")
    assert good[1].endswith("(AUROC 0.90, 95 % interval 0.85 to 0.94).")
    assert not any("chance" in sentence for sentence in good)
    assert "The interval includes 0.5, so the model may be no better than chance." in none
    assert "That is worse than chance, 0.5: check the labels." in swapped


def test_a_small_set_and_unknown_patients_are_said() -> None:
    wide = "The intervals are wide: other samples of the same kind may give quite different values."
    assert wide in sentences(of_counts(5, 2, 2, 5))
    assert wide not in sentences(of_counts(500, 20, 20, 500))
    one, some = (sentences(of_counts(5, 2, 2, 5), Sampling(patients=4, without_patient=n)) for n in (1, 3))
    rest = "is unknown: images of one patient count as independent, and the intervals may be too narrow."
    assert one[-2] == f"The patient of 1 image {rest}"
    assert some[-2] == f"The patient of 3 images {rest}"
    assert "of 4 patients" not in some[0]


def test_the_rule_of_prediction_comes_last() -> None:
    samples = of_counts(2, 1, 1, 2)
    assert sentences(samples)[-1] == "The model predicts a tumour at a score of 0.5 or more."
    findings = describe_findings(
        samples, estimates_of(measure(samples)), Sampling(), "no threshold was chosen for scans"
    )
    assert (
        findings[0]
        == "On 6 labelled images, the model gives scores but no predictions: no threshold was chosen for scans."
    )
    assert not any("at a score of" in sentence or "detected" in sentence for sentence in findings)


def test_a_scan_is_shown_by_one_slice() -> None:
    assert describe_slices(PATIENT) == "Each patient is shown by its slice with the highest probability of a tumour."
    assert describe_slices(SLICE) is None


def test_several_classes_are_named_one_by_one() -> None:
    probabilities = np.eye(3)[np.array([0, 0, 1, 2, 2, 2])] * 0.9 + 0.1 / 3
    samples = labelled([0, 0, 1, 1, 2, 2], probabilities, ("none", "glioma", "meningioma"))
    first, second = sentences(samples)[:2]
    assert first.startswith("On 6 labelled images, the model predicted the right class for 5 of 6 (accuracy 0.83, ")
    assert first.endswith(": none in 2 of 2, glioma in 1 of 2, meningioma in 2 of 2.")
    assert second.startswith("Any tumour against none: it detected a tumour in 4 of 4 images with one (sensitivity 1.0")
    assert "no sample is glioma" in sentences(samples.take(np.array([0, 1, 4, 5])))[0]


def test_scores_that_are_no_numbers_say_nothing_of_the_model() -> None:
    (only,) = sentences(labelled([0, 1], np.array([[0.5, 0.5], [np.nan, np.nan]])))
    assert only == "On 2 labelled images, some scores are not finite numbers, so nothing can be said about the model."


def test_leaked_samples_are_counted_in_the_singular_and_the_plural() -> None:
    assert describe_leakage(1).startswith("Data leakage: 1 of these samples was used")
    assert "is a duplicate or near duplicate of such samples, or shares a patient" in describe_leakage(1)
    assert "are duplicates or near duplicates of such samples, or share a patient" in describe_leakage(2)
    assert describe_leakage(1402).startswith("Data leakage: 1,402 of these samples were used")


@given(*[st.integers(0, 12)] * 4, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=60 if LONG else 8, deadline=None)
def test_every_sentence_is_whole(found: int, missed: int, alarms: int, clear: int, patients: int, unknown: int) -> None:
    samples = of_counts(found, missed, alarms, clear + (found + missed + alarms + clear == 0))
    sampling = Sampling(split="test", patients=patients, without_patient=unknown)
    for sentence in sentences(samples, sampling):
        assert sentence.endswith(".")
        assert not [part for part in ("None", "nan", "  ", "()", " 1 images", " 0 images") if part in sentence]


def test_a_metric_without_an_interval_says_so() -> None:
    samples = of_counts(2, 1, 1, 2)
    estimates = estimates_of(measure(samples)) | {"sensitivity": Estimate(value=0.5, n=3)}
    assert "(sensitivity 0.50, no interval)" in describe_findings(samples, estimates, Sampling(unit=IMAGE))[0]
