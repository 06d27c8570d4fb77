"""Choose temperature and operating threshold on the validation split, after training."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import OperatingConfig
from brainscale.models.bundle import Bundle
from brainscale.scoring.on_ray import predict_rows
from brainscale.stats import thresholds
from brainscale.stats.decisions import apply_temperature, tumour_probability
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.threshold_bounds import TargetBound, threshold_for_target


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Threshold and temperature of a model, as model.json has them.

    Attributes:
        threshold: probability of a tumour from which on a sample is predicted to be one.
        threshold_source: how the threshold was chosen.
        threshold_bound: lower bound of the sensitivity or specificity that the threshold was chosen for, if any.
        temperature: number by which log-probabilities are divided.
        temperature_source: how the temperature was chosen.
    """

    threshold: float
    threshold_source: str
    threshold_bound: TargetBound | None = None
    temperature: float = 1.0
    temperature_source: str = "none"


def is_fixed(config: OperatingConfig) -> bool:
    """Return whether the configuration sets the operating point, so that nothing is chosen on validation."""
    return config.threshold == "fixed" and not config.temperature


def fixed_operating_point(config: OperatingConfig) -> OperatingPoint:
    """Return the operating point before anything is chosen on validation."""
    return OperatingPoint(threshold=config.value, threshold_source="fixed")


def choose_operating_point(config: OperatingConfig, bundle: Bundle, manifest: pa.Table) -> OperatingPoint:
    """Return the operating point chosen on the validation split; needs a connected Ray.

    Args:
        config: what to choose, and how.
        bundle: the model, not calibrated yet.
        manifest: manifest of the run.

    Raises:
        ManifestError: nothing can be chosen on the validation split.
    """
    rows = manifest.filter(pc.equal(manifest["split"], "val"))
    groups = dict(zip(rows["sample_id"].to_pylist(), rows["group"].to_pylist(), strict=True))
    table = predict_rows(rows, bundle)
    samples = LabelledProbabilities.from_predictions(table, list(bundle.info.classes), groups=groups)
    # float32, as engines return them: the threshold may be equal to a sample's score, and must not miss it by rounding
    probabilities = samples.probabilities.astype(np.float32)
    basis = f"on {len(samples)} validation samples"
    point = fixed_operating_point(config)
    if config.temperature:
        temperature = thresholds.fit_temperature(samples.labels, probabilities)
        point = replace(point, temperature=temperature, temperature_source=f"lowest log loss {basis}")
    scores = tumour_probability(apply_temperature(probabilities, point.temperature))
    if config.threshold == "youden":
        threshold = thresholds.youden_threshold(samples.labels, scores)
        return replace(point, threshold=threshold, threshold_source=f"Youden's index {basis}")
    if config.threshold == "fixed":
        return point
    threshold, bound = threshold_for_target(
        samples.labels,
        scores,
        config.threshold,
        config.target,
        confidence=config.confidence,
        codes=samples.codes,
    )
    return replace(point, threshold=threshold, threshold_source=bound.describe(), threshold_bound=bound)
