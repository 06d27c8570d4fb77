"""Tables of scans and of patients: one row for each, with its probability and its prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from brainscale.models.bundle import ModelInfo
from brainscale.schema import PATIENTS, SCANS
from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.units import AGGREGATIONS, DEFAULT_AGGREGATION, Aggregation, Unit, UnitScores

SCHEMAS = {"scan": SCANS, "patient": PATIENTS}
"""Unit → schema of its table."""


def table_kind(unit: Unit) -> str:
    """Return the kind of table of a unit, as `schema.FORMATS` calls it."""
    return f"{unit}s"


def aggregation_of(info: ModelInfo, unit: Unit) -> Aggregation:
    """Return how a model's unit gets its probability: as its operating point says, or else the default."""
    point = info.operating_points.get(unit)
    return DEFAULT_AGGREGATION if point is None or point.aggregation is None else point.aggregation


def describe_missing_point(unit: Unit) -> str:
    """Return in one sentence that a model predicts nothing for a unit, and why."""
    return (
        f"the model has no operating point for {unit}s, as its validation split had no {unit} of several slices, or "
        "not both with and without a tumour"
    )


def tabulate_units(
    scores: UnitScores,
    unit: Unit,
    info: ModelInfo,
    *,
    labels: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
) -> pa.Table:
    """Return one row for each unit, highest probability first, units without a probability last.

    Args:
        scores: the units.
        unit: scan or patient.
        info: the model.
        labels: int [u], class index of each unit, −1 for unknown; None where nothing is known.
        groups: [u], name of each unit's group, if known.

    Returns:
        A table of schema SCANS or PATIENTS.
    """
    point, aggregation, classes = info.operating_points.get(unit), aggregation_of(info, unit), list(info.classes)
    probabilities = scores.class_probabilities(aggregation)
    no_slice, n = scores.slices == 0, len(scores)
    predicted = [None] * n if point is None else _names(predicted_classes(probabilities, point.threshold), classes)
    values = iter(probabilities[~no_slice].tolist())
    columns: dict[str, Any] = {
        unit: scores.names,
        "model": [info.weights_sha256] * n,
        "slices": scores.slices,
        "empty": scores.empty,
        "errors": scores.errors,
        **{name: pa.array(scores.aggregate(name), mask=no_slice) for name in AGGREGATIONS},
        "aggregation": [aggregation] * n,
        "probability": pa.array(tumour_probability(probabilities), mask=no_slice),
        "probabilities": [None if absent else next(values) for absent in no_slice],
        "threshold": [None if point is None else point.threshold] * n,
        "prediction": [None if absent else name for absent, name in zip(no_slice, predicted, strict=True)],
        "novelty": pa.array(scores.novelty, mask=np.isnan(scores.novelty)),
        "label": [None] * n if labels is None else _names(labels, classes),
        "group": [None] * n if groups is None else list(groups),
        "sample_id": scores.sample_ids,
    }
    schema = SCHEMAS[unit]
    table = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
    return table.sort_by([("probability", "descending"), (unit, "ascending")])


def _names(indices: np.ndarray, classes: Sequence[str]) -> list[str | None]:
    return [classes[index] if index >= 0 else None for index in indices]
