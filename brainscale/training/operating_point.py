"""Choose temperature and threshold on the validation split, once training has ended."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import OperatingConfig
from brainscale.models.bundle import Bundle
from brainscale.scoring.on_ray import predict_rows
from brainscale.stats import thresholds
from brainscale.stats.decisions import apply_temperature, tumour_probability
from brainscale.stats.labelled import LabelledProbabilities


def is_fixed(config: OperatingConfig) -> bool:
    """Return whether the configuration leaves nothing to choose."""
    return config.threshold == "fixed" and not config.temperature


def fixed_operating_point(config: OperatingConfig) -> dict[str, Any]:
    """Return the fields of model.json before anything is chosen."""
    return {"threshold": config.value, "threshold_source": "fixed", "temperature": 1.0, "temperature_source": "none"}


def choose_operating_point(config: OperatingConfig, bundle: Bundle, manifest: pa.Table) -> dict[str, Any]:
    """Return the fields of model.json that the validation split decides; needs a connected Ray.

    Args:
        config: what to choose.
        bundle: the model, not calibrated.
        manifest: manifest of the run.

    Raises:
        ManifestError: nothing can be chosen from the validation split.
    """
    table = predict_rows(manifest.filter(pc.equal(manifest["split"], "val")), bundle)
    samples = LabelledProbabilities.from_predictions(table, list(bundle.info.classes))
    probabilities = samples.probabilities.astype(np.float32)  # as an engine gives them: a threshold may be a score
    temperature = thresholds.fit_temperature(samples.labels, probabilities) if config.temperature else 1.0
    scores = tumour_probability(apply_temperature(probabilities, temperature))
    basis = f"on {len(samples)} validation samples"
    facts = fixed_operating_point(config)
    if config.temperature:
        facts |= {"temperature": temperature, "temperature_source": f"the lowest log loss {basis}"}
    if config.threshold == "youden":
        return {
            **facts,
            "threshold": thresholds.youden_threshold(samples.labels, scores),
            "threshold_source": f"Youden's index {basis}",
        }
    if config.threshold == "sensitivity":
        source = f"the highest with a sensitivity of {config.target:g} {basis}"
        return {
            **facts,
            "threshold": thresholds.sensitivity_threshold(samples.labels, scores, config.target),
            "threshold_source": source,
        }
    return facts
