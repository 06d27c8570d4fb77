"""Choose temperature and operating points on the validation split, after training."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import OperatingConfig
from brainscale.dataset.columns import replace_column
from brainscale.models.bundle import Bundle, OperatingPoint
from brainscale.scoring.rows import predict_rows
from brainscale.stats import thresholds
from brainscale.stats.decisions import apply_temperature
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.units import (
    AGGREGATION_NAMES,
    AGGREGATIONS,
    Aggregation,
    LabelledUnits,
    Unit,
    count_ordered_pairs,
    unit_ids,
)
from brainscale.training.threshold_choice import choose_threshold

UNITS_OF_SLICES: tuple[Unit, ...] = ("scan", "patient")


@dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """Operating points and temperature of a model, as model.json has them.

    Attributes:
        operating_points: unit → operating point.
        temperature: number by which log-probabilities are divided.
        temperature_source: how the temperature was chosen.
    """

    operating_points: Mapping[Unit, OperatingPoint]
    temperature: float = 1.0
    temperature_source: str = "none"


def needs_validation(config: OperatingConfig, manifest: pa.Table) -> bool:
    """Return whether anything is chosen on validation: all but a fixed threshold of single images."""
    rows = manifest.filter(pc.equal(manifest["split"], "val"))
    return (
        config.threshold != "fixed" or config.temperature or any(_has_several(rows, unit) for unit in UNITS_OF_SLICES)
    )


def _has_several(rows: pa.Table, unit: Unit) -> bool:
    """Return whether a scan or patient has several slices that training did not leave out."""
    names = unit_ids(rows, unit).drop_null().to_pylist()
    return any(count > 1 for count in Counter(names).values())


def fixed_operating_points(config: OperatingConfig) -> OperatingPoints:
    """Return what a model has before anything is chosen on validation."""
    point = OperatingPoint(threshold=config.value, threshold_source="fixed")
    return OperatingPoints(operating_points={"slice": point})


def choose_operating_points(config: OperatingConfig, bundle: Bundle, manifest: pa.Table) -> OperatingPoints:
    """Return what is chosen on the validation split.

    Scans and patients have an operating point where one of them has several slices there, and some have a tumour and
    some have none.

    Args:
        config: what to choose, and how.
        bundle: the model, not calibrated yet.
        manifest: manifest of the run.

    Raises:
        ManifestError: nothing can be chosen on the validation split.
    """
    rows = manifest.filter(pc.equal(manifest["split"], "val"))
    table, classes = predict_rows(rows, bundle), list(bundle.info.classes)
    temperature, temperature_source = 1.0, "none"
    if config.temperature:
        samples = LabelledProbabilities.from_predictions(table, classes)
        temperature = thresholds.fit_temperature(samples.labels, samples.probabilities.astype(np.float32))
        temperature_source = f"lowest log loss on {len(samples)} validation samples"
        table = _with_temperature(table, temperature)
    samples = LabelledProbabilities.from_predictions(table, classes, groups=rows)
    points: dict[Unit, OperatingPoint] = {"slice": choose_threshold(config, samples, "samples")}
    for unit in UNITS_OF_SLICES:
        units = LabelledUnits.from_predictions(table, unit, classes, rows)
        if (point := choose_unit_point(config, units)) is not None:
            points[unit] = point
    return OperatingPoints(operating_points=points, temperature=temperature, temperature_source=temperature_source)


def _with_temperature(table: pa.Table, temperature: float) -> pa.Table:
    """Return predictions with calibrated probabilities, in the type in which scoring calibrates them."""
    is_scored = pc.is_valid(table["probabilities"])
    rows = table["probabilities"].drop_null().to_pylist()
    calibrated = iter(apply_temperature(np.array(rows, np.float32), temperature).tolist()) if rows else iter(())
    kind = table.schema.field("probabilities").type
    values = [next(calibrated) if scored else None for scored in is_scored.to_pylist()]
    return replace_column(table, "probabilities", pa.array(values, kind))


def choose_unit_point(config: OperatingConfig, units: LabelledUnits) -> OperatingPoint | None:
    """Return the aggregation and the threshold of scans or patients; None where validation has too little for them.

    A fixed threshold is one of slices, and means nothing for their maximum: units have Youden's then.

    Args:
        config: how to choose.
        units: those of the validation split.
    """
    counted, has_tumour = units.counted, units.labels[units.counted] > 0
    if not (units.scores.slices[counted] > 1).any() or has_tumour.all() or not has_tumour.any():
        return None
    noun, count = f"{units.unit}s", int(counted.sum())
    aggregation, source = _choose_aggregation(config, units)
    rule = config.model_copy(update={"threshold": "youden"}) if config.threshold == "fixed" else config
    point = choose_threshold(rule, units.samples(aggregation), noun)
    return point.model_copy(
        update={"aggregation": aggregation, "aggregation_source": source, "validation_units": count}
    )


def _choose_aggregation(config: OperatingConfig, units: LabelledUnits) -> tuple[Aggregation, str]:
    """Return the aggregation with the highest AUROC, of equals the first, and how it was chosen."""
    if config.aggregation != "auto":
        return config.aggregation, "fixed"
    samples = {aggregation: units.samples(aggregation) for aggregation in AGGREGATIONS}
    pairs = {name: count_ordered_pairs(one.has_tumour, one.tumour_probability) for name, one in samples.items()}
    best = max(AGGREGATIONS, key=pairs.__getitem__)
    has_tumour = samples[best].has_tumour
    auroc = pairs[best] / (2 * int(has_tumour.sum()) * int((~has_tumour).sum()))
    return best, f"highest AUROC ({auroc:.4f}) on {len(has_tumour)} validation {units.unit}s"


def describe_operating_points(chosen: OperatingPoints) -> list[str]:
    """Return messages for the user: operating points of scans and patients, and targets that are not reached."""
    messages = []
    for unit, point in chosen.operating_points.items():
        if point.aggregation is not None:
            name = AGGREGATION_NAMES[point.aggregation]
            messages.append(
                f"Operating point of {unit}s: {name}, {point.threshold:.4g} or more ({point.threshold_source})."
            )
        elif (bound := point.threshold_bound) is not None and not bound.is_reached:
            messages.append(f"Note: {point.threshold_source}.")
    return messages
