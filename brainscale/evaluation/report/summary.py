"""The report's first sentences: what the model does on these samples, and how sure that is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainscale.formatting import format_number
from brainscale.stats.confusion import confusion_matrix
from brainscale.stats.estimate import Estimate
from brainscale.stats.labelled import LabelledProbabilities

DIGITS = 2
CHANCE = 0.5
WIDE = 0.25
"""Width from which an interval is called wide."""
SPLIT_WORDS = {"train": "training ", "val": "validation ", "test": "test "}


@dataclass(frozen=True)
class Unit:
    """What one prediction is for.

    Attributes:
        one: its name.
        many: its name in the plural.
    """

    one: str
    many: str

    def count(self, number: int, adjective: str = "") -> str:
        """Return a number of them in words, such as "1 labelled image" or "12 images"."""
        return f"{number:,} {adjective}{self.one if number == 1 else self.many}"


IMAGE, SLICE = Unit("image", "images"), Unit("slice", "slices")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which samples an evaluation rests on.

    Attributes:
        unit: what one sample is.
        split: train, val, test or all.
        patients: number of patients that are known.
        without_patient: number of samples whose patient is unknown.
    """

    unit: Unit = IMAGE
    split: str = "all"
    patients: int = 0
    without_patient: int = 0

    def describe(self, samples: int) -> str:
        """Return so many samples in words, such as "51 labelled test images of 38 patients"."""
        text = self.unit.count(samples, f"labelled {SPLIT_WORDS.get(self.split, '')}")
        if not self.patients or self.without_patient or self.unit.one == "patient":
            return text
        return f"{text} of {Unit('patient', 'patients').count(self.patients)}"

    def describe_unknown(self) -> str | None:
        """Return in one sentence what unknown patients do to the intervals; None where all are known."""
        if not self.without_patient:
            return None
        subject = f"The patient of {self.unit.count(self.without_patient)} is unknown"
        return f"{subject}: {self.unit.many} of one patient count as independent, and the intervals may be too narrow."


def describe_findings(
    samples: LabelledProbabilities,
    estimates: Mapping[str, Estimate],
    sampling: Sampling,
    no_threshold: str | None = None,
) -> list[str]:
    """Return the first sentences of the report, the most important first.

    Args:
        samples: labels and probabilities.
        estimates: their metrics by name.
        sampling: what the samples are.
        no_threshold: why nothing is predicted, if so.
    """
    whole = sampling.describe(len(samples))
    if samples.not_finite:
        return [f"On {whole}, some scores are not finite numbers, so nothing can be said about the model."]
    if no_threshold is not None:
        first = f"On {whole}, the model gives scores but no predictions: {no_threshold}."
        return [first, *_ranking(samples, estimates, sampling.unit)]
    if len(samples.classes) == 2:
        first = f"On {whole}, the model {_detection(samples, estimates, sampling.unit)}."
    else:
        first = f"On {whole}, the model {_naming(samples, estimates)}."
    unknown = sampling.describe_unknown()
    return [
        first,
        *_against_none(samples, estimates, sampling.unit),
        *_ranking(samples, estimates, sampling.unit),
        *_width(estimates),
        *([unknown] if unknown else []),
        _rule(samples),
    ]


def describe_leakage(leaked: int) -> str:
    """Return what the samples that a model has seen do to its metrics, in one sentence."""
    used, copies, share = ("was", "is a duplicate", "shares") if leaked == 1 else ("were", "are duplicates", "share")
    return (
        f"Data leakage: {leaked:,} of these samples {used} used to train or select the model, {copies} or near "
        f"{copies.split()[-1]} of such samples, or {share} a patient or series with them. "
        "The metrics below overestimate its performance"
    )


def describe_slices(unit: Unit) -> str | None:
    """Return which slice stands for a scan or a patient; None where each sample is an image of its own."""
    if unit in (IMAGE, SLICE):
        return None
    return f"Each {unit.one} is shown by its slice with the highest probability of a tumour."


def _detection(samples: LabelledProbabilities, estimates: Mapping[str, Estimate], unit: Unit) -> str:
    """Return how many samples with a tumour, and without one, are predicted so."""
    has_tumour, predicted = samples.has_tumour, samples.predicted > 0
    parts = []
    if has_tumour.any():
        found = f"{(predicted & has_tumour).sum():,} of {unit.count(int(has_tumour.sum()))} with one"
        parts.append(f"detected a tumour in {found} {_rate('sensitivity', estimates)}")
    if not has_tumour.all():
        clear = f"{(~predicted & ~has_tumour).sum():,} of {unit.count(int((~has_tumour).sum()))} without one"
        verb = "predicted none in" if parts else "predicted no tumour in"
        parts.append(f"{verb} {clear} {_rate('specificity', estimates)}")
    return " and ".join(parts)


def _naming(samples: LabelledProbabilities, estimates: Mapping[str, Estimate]) -> str:
    """Return how many samples of each of several classes are predicted to be of it."""
    counts = confusion_matrix(samples)
    each = [
        f"{name} in {counts[i, i]:,} of {counts[i].sum():,}" if counts[i].any() else f"no sample is {name}"
        for i, name in enumerate(samples.classes)
    ]
    right = f"{np.trace(counts):,} of {counts.sum():,}"
    return f"predicted the right class for {right} {_rate('accuracy', estimates)}: {', '.join(each)}"


def _against_none(samples: LabelledProbabilities, estimates: Mapping[str, Estimate], unit: Unit) -> list[str]:
    """Return, with several classes, the result of tumour against none, and which of the two classes is missing."""
    sentences = []
    if len(samples.classes) > 2:
        sentences.append(f"Any tumour against none: it {_detection(samples, estimates, unit)}.")
    if samples.has_tumour.all():
        sentences.append(f"No {unit.one} is without a tumour, so specificity and AUROC are unknown.")
    elif not samples.has_tumour.any():
        sentences.append(f"No {unit.one} has a tumour, so sensitivity and AUROC are unknown.")
    return sentences


def _rule(samples: LabelledProbabilities) -> str:
    """Return how the model predicts."""
    if np.ndim(samples.threshold):
        return "Each sample has the threshold of its own model."
    rule = f"The model predicts a tumour at a score of {float(samples.threshold):.6g} or more"
    if len(samples.classes) == 2:
        return f"{rule}."
    return f"{rule}; the score is the probability of a tumour of any kind, and the kind is the most probable one."


def _of_100(share: float) -> str:
    """Return a share as a whole number of 100, which is 0 or 100 only where the share is."""
    whole = math.floor(100 * share + 0.5)
    if 0 < share < 1 and whole in (0, 100):
        return "fewer than 1 of 100" if whole == 0 else "more than 99 of 100"
    return f"{whole} of 100"


def _ranking(samples: LabelledProbabilities, estimates: Mapping[str, Estimate], unit: Unit) -> list[str]:
    """Return what the area under the ROC curve of tumour against none says."""
    auroc = _find("auroc", estimates) if len(samples.classes) == 2 else estimates.get("tumour_auroc")
    if auroc is None or auroc.value is None or not np.isfinite(auroc.value):
        return []
    pairs = f"{_of_100(auroc.value)} pairs of one {unit.one} with a tumour and one without"
    sentences = [f"In {pairs}, the one with the tumour has the higher score {_rate('auroc', estimates, 'AUROC')}."]
    if auroc.low is not None and auroc.high is not None and auroc.low <= CHANCE:
        if auroc.high < CHANCE:
            sentences.append("That is worse than chance, 0.5: check the labels.")
        else:
            sentences.append("The interval includes 0.5, so the model may be no better than chance.")
    return sentences


def _width(estimates: Mapping[str, Estimate]) -> list[str]:
    """Return that few samples leave much open, where they do."""
    rates = [e for name in ("sensitivity", "specificity") if (e := _find(name, estimates)) is not None]
    if not any(e.high - e.low > WIDE for e in rates if e.low is not None and e.high is not None):
        return []
    return ["The intervals are wide: other samples of the same kind may give quite different values."]


def _find(name: str, estimates: Mapping[str, Estimate]) -> Estimate | None:
    """Return a metric; with several classes, one of tumour against none unless all classes together have it."""
    return estimates.get(name, estimates.get(f"tumour_{name}"))


def _rate(name: str, estimates: Mapping[str, Estimate], shown: str | None = None) -> str:
    """Return a metric in brackets, with its interval."""
    estimate = _find(name, estimates)
    if estimate is None:
        return ""
    value = f"{shown or name} {format_number(estimate.value, DIGITS)}"
    if estimate.low is None or estimate.high is None:
        return f"({value}, no interval)"
    low, high = (format_number(end, DIGITS) for end in (estimate.low, estimate.high))
    return f"({value}, 95 % interval {low} to {high})"
