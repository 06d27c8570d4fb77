"""Evaluate scans or patients instead of slices: their table, their labels and probabilities, and their slices."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.patients import REMEDY
from brainscale.errors import ManifestError
from brainscale.models.bundle import ModelInfo
from brainscale.scoring.per_unit import aggregation_of, describe_missing_point, table_kind, tabulate_units
from brainscale.stats.labelled import Bools, LabelledProbabilities, labelled_rows
from brainscale.stats.resampling import is_missing
from brainscale.stats.units import AGGREGATION_NAMES, UNITS, Aggregation, LabelledUnits, Unit, unit_ids
from brainscale.storage.tables import read_table

UNIT_FILES = tuple(f"{table_kind(unit)}.parquet" for unit in UNITS if unit != "slice")
"""Files of an evaluation with one row for each scan or patient."""
THRESHOLD_FREE = (
    *("auroc", "average_precision", "brier", "log_loss", "ece"),
    *("calibration_slope", "calibration_intercept"),
)
"""Metrics that need no threshold; of more classes also as `macro_…`, `tumour_…` and `…_<class>`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluatedUnits:
    """The scans or patients of an evaluation.

    Attributes:
        unit: scan or patient.
        aggregation: how their probabilities follow from those of their slices.
        table: one row for each, of schema SCANS or PATIENTS.
        labelled: of those with a label and a score, the slice with the highest probability: its sample_id and whether
            text is burned in, with label, prediction and probability of the unit.
        samples: labels and probabilities of these, in the same order.
        unit_of: sample_id → place of its unit among these; without the samples of others.
        no_threshold: why the model predicts nothing for them; None where it does.
        without_unit: number of samples whose patient is not known.
    """

    unit: Unit
    aggregation: Aggregation
    table: pa.Table
    labelled: pa.Table
    samples: LabelledProbabilities
    unit_of: dict[str, int]
    no_threshold: str | None
    without_unit: int

    @classmethod
    def of(cls, predictions: pa.Table, rows: pa.Table, unit: Unit, info: ModelInfo) -> "EvaluatedUnits":
        """Return the scans or patients of a table of predictions with labels.

        Args:
            predictions: table of schema PREDICTIONS.
            rows: rows of the manifest, for the groups of its samples.
            unit: scan or patient.
            info: the model.
        """
        classes, point, aggregation = list(info.classes), info.operating_points.get(unit), aggregation_of(info, unit)
        units = LabelledUnits.from_predictions(predictions, unit, classes, rows)
        names = units.scores.names.to_pylist()
        group_names = [names[group] for group in units.groups]
        samples = units.samples(aggregation, 0.5 if point is None else point.threshold)
        place = np.cumsum(units.counted) - 1
        index = {name: int(place[i]) for i, name in enumerate(names) if units.counted[i]}
        unit_names = zip(predictions["sample_id"].to_pylist(), unit_ids(predictions, unit).to_pylist(), strict=True)
        return cls(
            unit=unit,
            aggregation=aggregation,
            table=tabulate_units(units.scores, unit, info, labels=units.labels, groups=group_names),
            labelled=_label_slices(predictions, units, samples),
            samples=samples,
            unit_of={sample_id: index[name] for sample_id, name in unit_names if name in index},
            no_threshold=None if point is not None else describe_missing_point(unit),
            without_unit=unit_ids(predictions, unit).null_count,
        )

    def column(self, values: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return a value for each labelled unit: that of its slices, or None where they have several, or none.

        Args:
            values: sample_id and value of each sample.
        """
        several: list[set[Any]] = [set() for _ in range(len(self.samples))]
        for sample_id, value in values:
            if (place := self.unit_of.get(sample_id)) is not None and not is_missing(value):
                several[place].add(value)
        return [next(iter(one)) if len(one) == 1 else None for one in several]

    def contain(self, sample_ids: Iterable[str]) -> Bools:
        """Return which labelled units contain one of the samples: bool [n]."""
        contained = np.zeros(len(self.samples), bool)
        contained[[self.unit_of[sample_id] for sample_id in sample_ids if sample_id in self.unit_of]] = True
        return contained


def _label_slices(predictions: pa.Table, units: LabelledUnits, samples: LabelledProbabilities) -> pa.Table:
    """Return what `EvaluatedUnits.labelled` holds."""
    sample_ids = units.scores.sample_ids.filter(pa.array(units.counted))
    burned_in = predictions["burned_in"].take(pc.index_in(sample_ids, predictions["sample_id"].combine_chunks()))
    columns = {
        "sample_id": sample_ids,
        "label": pa.array([samples.classes[i] for i in samples.labels], pa.string()),
        "prediction": pa.array([samples.classes[i] for i in samples.predicted], pa.string()),
        "probability": pa.array(samples.tumour_probability),
        "burned_in": burned_in,
    }
    return pa.table(columns)


def evaluation_name(split: str, unit: Unit) -> str:
    """Return the name of the folder of an evaluation in its run."""
    return split if unit == "slice" else f"{split}-{unit}"


def read_labelled_units(folder: Path, unit: Unit) -> pa.Table:
    """Return the scans or patients of an evaluation that have a label and a score, each with its name as sample_id."""
    kind = table_kind(unit)
    table = labelled_rows(read_table(folder / f"{kind}.parquet", kind, [unit, "label", "probabilities", "group"]))
    table = table.rename_columns(["sample_id", "label", "probabilities", "group"]).sort_by("sample_id")
    return table.append_column("sha256", pa.nulls(len(table), pa.string()))


def describe_score(units: EvaluatedUnits) -> str:
    """Return in words how the score of a scan or patient follows from its slices."""
    return f"of a {units.unit}: {AGGREGATION_NAMES[units.aggregation]}"


def require_patients(rows: pa.Table, unit: Unit) -> None:
    """Check that patients can be evaluated.

    Raises:
        ManifestError: no sample has a known patient.
    """
    if unit == "patient" and rows["patient"].null_count == len(rows):
        raise ManifestError(f"no sample has a known patient. {REMEDY}")


def drop_threshold_metrics(table: pa.Table, reason: str | None) -> pa.Table:
    """Return metrics of which those that need a threshold have no value, if there is a reason for it.

    Args:
        table: a table of schema METRICS or SUBGROUPS.
        reason: why there is no threshold.
    """
    if reason is None:
        return table
    absent = {"value": None, "low": None, "high": None, "method": None, "reason": reason}
    rows = [row if _needs_no_threshold(row["metric"]) else row | absent for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=table.schema)


def _needs_no_threshold(metric: str) -> bool:
    name = metric.removeprefix("macro_").removeprefix("tumour_")
    return name in THRESHOLD_FREE or name.startswith(("auroc_", "average_precision_"))
