"""Choose a threshold on labelled samples, scans or patients, as a configuration asks for it."""

from brainscale.config.sections import OperatingConfig
from brainscale.models.bundle import OperatingPoint
from brainscale.stats import thresholds
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.threshold_bounds import threshold_for_target


def choose_threshold(config: OperatingConfig, samples: LabelledProbabilities, noun: str) -> OperatingPoint:
    """Return the threshold that a configuration asks for.

    Args:
        config: which, and its target.
        samples: labels and probabilities of what it is chosen on: samples, scans or patients.
        noun: plural of what they are.
    """
    scores = samples.tumour_probability
    if config.threshold == "youden":
        threshold = thresholds.youden_threshold(samples.labels, scores)
        source = f"Youden's index on {len(samples)} validation {noun}"
        return OperatingPoint(threshold=threshold, threshold_source=source)
    if config.threshold == "fixed":
        return OperatingPoint(threshold=config.value, threshold_source="fixed")
    threshold, bound = threshold_for_target(
        samples.labels,
        scores,
        config.threshold,
        config.target,
        confidence=config.confidence,
        codes=samples.codes,
    )
    return OperatingPoint(
        threshold=threshold,
        threshold_source=bound.describe(noun),
        threshold_bound=bound,
    )
