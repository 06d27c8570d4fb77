"""What is chosen on the validation part once training has ended: temperature, then threshold."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import OperatingConfig
from brainscale.models.bundle import Bundle
from brainscale.scoring.on_ray import predict_rows
from brainscale.stats import thresholds
from brainscale.stats.decisions import apply_temperature, tumour_probability


def is_fixed(config: OperatingConfig) -> bool:
    """Whether there is nothing to choose."""
    return config.threshold == "fixed" and not config.temperature


def fixed_operating_point(config: OperatingConfig) -> dict[str, Any]:
    """The card's fields before anything was chosen."""
    return {"threshold": config.value, "threshold_source": "fixed", "temperature": 1.0, "temperature_source": "none"}


def choose_operating_point(config: OperatingConfig, bundle: Bundle, manifest: pa.Table) -> dict[str, Any]:
    """The card's fields that the validation part decides; needs a connected Ray.

    Args:
        config: what is to be chosen.
        bundle: the model, not calibrated.
        manifest: of the run.

    Raises:
        ManifestError: the validation part cannot decide.
    """
    table = predict_rows(manifest.filter(pc.equal(manifest["split"], "val")), bundle)
    table = table.filter(pc.is_valid(table["probability"]))
    classes = list(bundle.info.classes)
    labels = np.array([classes.index(label) for label in table["label"].to_pylist()], np.int64)
    chances = np.array(table["probabilities"].to_pylist(), np.float32)  # as an engine gives them: a cut may be a score
    temperature = thresholds.fit_temperature(chances, labels) if config.temperature else 1.0
    scores = tumour_probability(apply_temperature(chances, temperature))
    among = f"on {len(labels)} validation samples"
    facts = fixed_operating_point(config)
    if config.temperature:
        facts |= {"temperature": temperature, "temperature_source": f"the lowest log loss {among}"}
    if config.threshold == "youden":
        return {
            **facts,
            "threshold": thresholds.youden_threshold(labels, scores),
            "threshold_source": f"Youden's index {among}",
        }
    if config.threshold == "sensitivity":
        source = f"the highest with a sensitivity of {config.target:g} {among}"
        return {
            **facts,
            "threshold": thresholds.sensitivity_threshold(labels, scores, config.target),
            "threshold_source": source,
        }
    return facts
