"""From slices to scans and patients: the scores, labels and groups of the units that are decided on.

A scan's score is an aggregation of P(tumour) over its slices that were scored and are not empty: their maximum, their
mean, the mean of the highest three, or noisy-or, 1 − Π(1 − p), the chance of a tumour on any slice if slices were
independent (J. Pearl, 1988, 4.3.2). All four are functions of sums and of the three highest values, so the parts of
a large table can be summed one by one. A unit of one slice has that slice's probabilities.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import UsageError
from brainscale.stats.components import find_components
from brainscale.stats.decisions import tumour_probability
from brainscale.stats.labelled import Bools, Floats, Ints, LabelledProbabilities, values_of
from brainscale.stats.resampling import group_codes

Unit = Literal["slice", "scan", "patient"]
"""What is decided on."""
Aggregation = Literal["top_mean", "maximum", "mean", "noisy_or"]
"""How a unit's P(tumour) follows from its slices'; of two that are equally good on validation, the first is taken."""
UNITS: tuple[Unit, ...] = get_args(Unit)
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
DEFAULT_AGGREGATION: Aggregation = AGGREGATIONS[0]
"""Aggregation where a model has none of its own."""
TOP = 3
"""Number of slices in `top_mean`: one high slice may be noise, three high slices rarely are."""
AGGREGATION_NAMES: Mapping[Aggregation, str] = {
    "top_mean": f"mean of the {TOP} highest slices",
    "maximum": "maximum of the slices",
    "mean": "mean of the slices",
    "noisy_or": "noisy-or of the slices",
}
"""Aggregation → its name for people."""
UNIT_COLUMNS = ("sample_id", "scan", "patient", "empty", "probabilities", "novelty", "error_code")
"""Columns of the predictions that `UnitScores.from_predictions` needs."""


def require_unit(unit: str, units: Sequence[Unit] = UNITS) -> Unit:
    """Return the unit of this name.

    Raises:
        UsageError: there is no such unit.
    """
    for known in units:
        if unit == known:
            return known
    raise UsageError(f"no unit named '{unit}': choose {' or '.join(units)}")


def scan_ids(table: pa.Table) -> pa.ChunkedArray:
    """Return the scan of each row of a manifest or of predictions.

    It is the DICOM series, in however many files; or else the volume, the sample id without the frame number; or the
    sample itself. A file that cannot be read names no series and is a scan of its own.
    """
    volume = pc.replace_substring_regex(table["sample_id"], r"#\d+$", "")
    return pc.coalesce(table["scan"], volume)


def unit_ids(table: pa.Table, unit: Unit) -> pa.ChunkedArray:
    """Return the unit of each row of a manifest or of predictions; null where its patient is not known."""
    return {"slice": lambda: table["sample_id"], "scan": lambda: scan_ids(table), "patient": lambda: table["patient"]}[
        unit
    ]()


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitScores:
    """What the aggregations of units are computed from, in the order of the units' names.

    Attributes:
        names: string [u], the units.
        slices: int64 [u], number of slices that count: scored, and not empty.
        empty: int64 [u], number of empty slices.
        errors: int64 [u], number of slices that could not be read or scored.
        tumour_sums: float64 [u], sum of P(tumour) over the slices that count.
        class_sums: float64 [u, classes], sum of each class's probability over them.
        log_none: float64 [u], sum of log(1 − P(tumour)) over them.
        novelty: float64 [u], the highest novelty of them; NaN where there is none.
        top: float64 [u, TOP], their highest P(tumour), descending; NaN where there are fewer.
        sample_ids: string [u], the slice with the highest P(tumour); without slices that count, the first sample.
    """

    names: pa.Array
    slices: Ints
    empty: Ints
    errors: Ints
    tumour_sums: Floats
    class_sums: Floats
    log_none: Floats
    novelty: Floats
    top: Floats
    sample_ids: pa.Array

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_predictions(cls, table: pa.Table, unit: Unit, classes: int) -> "UnitScores":
        """Return the units of a table of predictions; rows whose patient is not known are in no patient.

        Args:
            table: rows with the columns `UNIT_COLUMNS`, in any order.
            unit: scan or patient.
            classes: number of classes.
        """
        names = unit_ids(table, unit)
        known = pc.is_valid(names)
        table, names = table.filter(known), names.filter(known)
        empty = pc.fill_null(table["empty"], False).to_numpy()
        is_scored = pc.is_valid(table["probabilities"]).to_numpy()
        counts = is_scored & ~empty
        n = len(table)
        probabilities = np.zeros((n, classes))
        values = pc.list_flatten(table["probabilities"].drop_null()).to_numpy()
        probabilities[is_scored] = values.reshape(-1, classes)
        probabilities[~counts] = 0
        tumour = np.where(counts, tumour_probability(probabilities), 0.0)
        top = np.full((n, TOP), np.nan)
        top[counts, 0] = tumour[counts]
        with np.errstate(divide="ignore"):  # a certain tumour has no logarithm of its absence
            log_none = np.log1p(-tumour)
        rows = cls(
            names=_joined(names),
            slices=counts.astype(np.int64),
            empty=empty.astype(np.int64),
            errors=pc.is_valid(table["error_code"]).to_numpy().astype(np.int64),
            tumour_sums=tumour,
            class_sums=probabilities,
            log_none=log_none,
            novelty=np.where(counts, table["novelty"].to_numpy(), np.nan),
            top=top,
            sample_ids=_joined(table["sample_id"]),
        )
        return rows._summed()

    @classmethod
    def merge(cls, parts: Iterable["UnitScores"]) -> "UnitScores":
        """Return the units of several tables, which may share some; one table or more."""
        some = list(parts)
        columns = {
            name: np.concatenate([getattr(part, name) for part in some])
            for name in ("slices", "empty", "errors", "tumour_sums", "class_sums", "log_none", "novelty", "top")
        }
        names, sample_ids = (
            pa.concat_arrays([getattr(part, name) for part in some]) for name in ("names", "sample_ids")
        )
        return cls(names=names, sample_ids=sample_ids, **columns)._summed()

    def aggregate(self, aggregation: Aggregation) -> Floats:
        """Return P(tumour) of each unit, float64 [u]; NaN without slices that count."""
        with np.errstate(invalid="ignore"):  # 0 / 0 where no slice counts
            if aggregation == "maximum":
                values = self.top[:, 0]
            elif aggregation == "mean":
                values = self.tumour_sums / self.slices
            elif aggregation == "top_mean":
                values = np.nansum(self.top, axis=1) / np.minimum(self.slices, TOP)
            else:
                values = -np.expm1(self.log_none)
        single = np.where(self.slices == 1, self.top[:, 0], values)  # as it is, not rounded by sums and logarithms
        return np.where(self.slices > 0, np.minimum(single, 1.0), np.nan)

    def class_probabilities(self, aggregation: Aggregation) -> Floats:
        """Return the probability of each class of each unit, float64 [u, classes]; NaN without slices that count.

        P(tumour) is the aggregation. Kinds of tumour share it as they share the sum of P(tumour) over the slices.
        """
        tumour, kinds = self.aggregate(aggregation), self.class_sums[:, 1:]
        sums = kinds.sum(1, keepdims=True)
        equal = np.full_like(kinds, 1 / max(1, kinds.shape[1]))
        shares = np.divide(kinds, sums, out=equal, where=sums > 0)
        probabilities = np.column_stack([1 - tumour, shares * tumour[:, None]])
        return np.where((self.slices == 1)[:, None], self.class_sums, probabilities)

    def _summed(self) -> "UnitScores":
        """Return the same with one row for each unit: sums do not depend on the order of the rows."""
        distinct = self.names.unique().sort()
        unit = np.asarray(pc.index_in(self.names, distinct).to_numpy(zero_copy_only=False), np.int64)
        by_id = np.asarray(pc.rank(self.sample_ids).to_numpy(), np.int64)
        order = np.lexsort((by_id, -self.top[:, 0], unit))  # NaN comes last
        starts = np.searchsorted(unit[order], np.arange(len(distinct)))

        def total(values: np.ndarray) -> np.ndarray:
            return np.add.reduceat(values[order], starts, axis=0) if len(starts) else values[:0]

        values = self.top[order].ravel()
        highest = np.lexsort((-values, np.repeat(unit[order], TOP)))
        return UnitScores(
            names=distinct,
            slices=total(self.slices),
            empty=total(self.empty),
            errors=total(self.errors),
            tumour_sums=total(self.tumour_sums),
            class_sums=total(self.class_sums),
            log_none=total(self.log_none),
            novelty=np.fmax.reduceat(self.novelty[order], starts) if len(starts) else self.novelty[:0],
            top=values[highest][starts[:, None] * TOP + np.arange(TOP)],
            sample_ids=self.sample_ids.take(pa.array(order[starts])),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledUnits:
    """Units with their labels and groups.

    Attributes:
        unit: what they are.
        scores: what their probabilities are computed from.
        labels: int64 [u], class indices; −1 where no slice has a label. A tumour on any labelled slice makes the unit
            one with a tumour, of the kind that most slices have, of equals the first class.
        groups: int64 [u], number of each unit's group: units that share a patient's or a duplicate's group, also by
            way of other units, are in one.
        classes: names of the classes.
    """

    unit: Unit
    scores: UnitScores
    labels: Ints
    groups: Ints
    classes: tuple[str, ...]

    @classmethod
    def from_predictions(
        cls, table: pa.Table, unit: Unit, classes: Sequence[str], groups: pa.Table | None = None
    ) -> "LabelledUnits":
        """Return the units of a table of predictions with labels.

        Args:
            table: rows with label and the columns `UNIT_COLUMNS`.
            unit: scan or patient.
            classes: names of the classes, in the order of the probabilities.
            groups: sample_id and group of the samples, and perhaps of others; a sample without one is in no group.
        """
        scores = UnitScores.from_predictions(table, unit, len(classes))
        of_row = pc.index_in(unit_ids(table, unit), scores.names)
        known = pc.is_valid(of_row)
        unit_of, rows = np.asarray(of_row.filter(known).to_numpy(), np.int64), table.filter(known)
        index = {name: i for i, name in enumerate(classes)}
        labels = np.array([index.get(label, -1) for label in rows["label"].to_pylist()], np.int64)
        named = np.full(len(rows), -1)
        if groups is not None:
            named = group_codes(values_of(rows["sample_id"], groups, "group"))
        return cls(
            unit=unit,
            scores=scores,
            labels=label_units(unit_of, labels, len(scores), len(classes)),
            groups=join_groups(unit_of, named, len(scores)),
            classes=tuple(classes),
        )

    @property
    def counted(self) -> Bools:
        """Which units have a label and a score: bool [u]."""
        return (self.labels >= 0) & (self.scores.slices > 0)

    def samples(self, aggregation: Aggregation, threshold: float = 0.5) -> LabelledProbabilities:
        """Return labels and probabilities of the units that are counted."""
        return LabelledProbabilities(
            labels=self.labels[self.counted],
            probabilities=self.scores.class_probabilities(aggregation)[self.counted],
            classes=self.classes,
            threshold=threshold,
            groups=self.groups[self.counted],
        )


def label_units(unit_of: Ints, labels: Ints, units: int, classes: int) -> Ints:
    """Return the label of each unit, int64 [units], as `LabelledUnits.labels` has it.

    Args:
        unit_of: int64 [n], unit of each slice.
        labels: int64 [n], class index of each slice; −1 where it has no label.
        units: number of units.
        classes: number of classes.
    """
    known = labels >= 0
    cells = np.bincount(unit_of[known] * classes + labels[known], minlength=units * classes)
    counts = cells.reshape(units, classes)
    has_tumour = counts[:, 1:].any(1)
    kind = 1 + counts[:, 1:].argmax(1)
    return np.where(has_tumour, kind, np.where(counts[:, 0] > 0, 0, -1)).astype(np.int64)


def join_groups(unit_of: Ints, groups: Ints, units: int) -> Ints:
    """Return the number of each unit's group, int64 [units]: a unit joins all groups that its slices are in.

    Args:
        unit_of: int64 [n], unit of each slice.
        groups: int64 [n], group of each slice; −1 for none.
        units: number of units.
    """
    known = groups >= 0
    count = units + int(groups.max(initial=-1)) + 1
    return np.asarray(find_components(unit_of[known], units + groups[known], count)[:units], np.int64)


def count_ordered_pairs(has_tumour: Bools, scores: Floats) -> int:
    """Return twice the number of pairs, one with a tumour and one without, whose scores are in order; a tie is half.

    It is the AUROC in whole numbers, so that equals are equal.

    Args:
        has_tumour: bool [n].
        scores: float64 [n].
    """
    distinct, step = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(step[rows], minlength=len(distinct)) for rows in (has_tumour, ~has_tumour))
    below = np.cumsum(negative) - negative
    return int((positive * (2 * below + negative)).sum())


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) and array.num_chunks else array
