"""Labels and a model's probabilities, from which every metric is computed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import UsageError
from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.resampling import group_codes

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledProbabilities:
    """A model's probabilities for labelled samples.

    Attributes:
        labels: int64 [n], class indices; 0 is the class without a tumour.
        probabilities: float64 [n, classes].
        classes: names of the classes, in the order of the columns.
        threshold: threshold of the probability of a tumour, of any kind; one for all or one for each sample [n].
        groups: int64 [n], number of each sample's group (a patient, or duplicates of one image) as
            `resampling.group_codes` assigns it, −1 for a group of its own; None where all are.

    Raises:
        UsageError: shapes do not match, or a label is not a class index.
    """

    labels: Ints
    probabilities: Floats
    classes: tuple[str, ...]
    threshold: float | Floats = 0.5
    groups: Ints | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise UsageError(f"a classifier needs two or more classes: {len(self.classes)} given")
        object.__setattr__(self, "labels", _class_indices(self.labels, len(self.classes)))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, np.float64))
        n, shape = len(self.labels), self.probabilities.shape
        if shape != (n, len(self.classes)):
            raise UsageError(
                f"probabilities have shape {list(shape)} for {n} labels and {len(self.classes)} classes: "
                "give one row for each sample and one column for each class"
            )
        if np.ndim(self.threshold) and np.shape(self.threshold) != (n,):
            raise UsageError(f"{np.size(self.threshold)} thresholds for {n} samples: give one, or one for each sample")
        if not np.isfinite(self.threshold).all():
            raise UsageError("a threshold is not a finite number")
        if self.groups is not None and np.shape(self.groups) != (n,):
            raise UsageError(f"{np.size(self.groups)} groups for {n} samples: give one for each sample")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_predictions(
        cls,
        table: pa.Table,
        classes: Sequence[str],
        *,
        threshold: float | Floats = 0.5,
        groups: pa.Table | None = None,
    ) -> "LabelledProbabilities":
        """Return the labelled samples of a table of predictions; rows without a label or probabilities are left out.

        Args:
            table: rows with label and probabilities, and with sample_id where there are groups.
            classes: names of the classes, in the order of the probabilities.
            threshold: as the attribute.
            groups: sample_id and group of the samples, and perhaps of others, each id once; a sample without one is a
                group of its own.

        Raises:
            UsageError: a label is none of the classes.
        """
        rows = labelled_rows(table)
        if unknown := sorted(set(pc.unique(rows["label"]).to_pylist()) - set(classes)):
            raise UsageError(f"label '{unknown[0]}' is not a class of the model: {', '.join(classes)}")
        codes = None
        if groups is not None:
            names = values_of(rows["sample_id"], groups, "group")
            codes = group_codes(pc.coalesce(pc.if_else(pc.not_equal(names, ""), names, None), rows["sample_id"]))
        return cls(
            labels=pc.index_in(rows["label"], pa.array(classes, pa.string())).to_numpy().astype(np.int64),
            probabilities=pc.list_flatten(rows["probabilities"]).to_numpy().reshape(-1, len(classes)),
            classes=tuple(classes),
            threshold=threshold,
            groups=codes,
        )

    @cached_property
    def has_tumour(self) -> Bools:
        """Whether each sample has a tumour, of any kind: bool [n]."""
        return self.labels > 0

    @cached_property
    def tumour_probability(self) -> Floats:
        """Probability of a tumour, of any kind: float64 [n]."""
        return tumour_probability(self.probabilities)

    @cached_property
    def predicted(self) -> Ints:
        """Predicted class indices: int64 [n]."""
        return predicted_classes(self.probabilities, self.threshold)

    @cached_property
    def codes(self) -> Ints:
        """Number of each sample's group, other numbers for those that are groups of their own: int64 [n]."""
        codes = np.full(len(self), -1) if self.groups is None else self.groups.copy()
        own = codes < 0
        codes[own] = codes.max(initial=-1) + 1 + np.arange(own.sum())
        return codes

    @cached_property
    def not_finite(self) -> bool:
        """Whether a probability is not a finite number."""
        return not np.isfinite(self.probabilities).all()

    def take(self, rows: np.ndarray) -> "LabelledProbabilities":
        """Return some of the samples: those of a mask, or of indices, in their order."""
        return replace(
            self,
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            threshold=self.threshold[rows] if isinstance(self.threshold, np.ndarray) else self.threshold,
            groups=None if self.groups is None else self.groups[rows],
        )


def labelled_rows(table: pa.Table) -> pa.Table:
    """Return the rows of a table of predictions that have a label and probabilities."""
    if not table["label"].null_count and not table["probabilities"].null_count:
        return table  # and no copy of a large one
    return table.filter(pc.and_(pc.is_valid(table["label"]), pc.is_valid(table["probabilities"])))


def values_of(sample_ids: pa.ChunkedArray, table: pa.Table, column: str) -> pa.ChunkedArray:
    """Return a column's values for some samples, in their order; null for those that are not in the table.

    Args:
        sample_ids: [n].
        table: rows with sample_id, each once, and the column.
        column: its name.
    """
    if sample_ids.equals(table["sample_id"]):  # as predictions of a whole split are: a million need not be looked up
        return table[column]
    return table[column].take(pc.index_in(sample_ids, table["sample_id"].combine_chunks()))


def _class_indices(labels: npt.ArrayLike, count: int) -> Ints:
    given = np.asarray(labels)
    if given.ndim != 1:
        raise UsageError(f"labels have shape {list(given.shape)}: give one class index for each sample")
    if given.dtype.kind not in "biuf" or (given != np.floor(given)).any():
        raise UsageError(f"labels are not whole numbers: give class indices, 0 to {count - 1}")
    indices = given.astype(np.int64)
    if len(outside := indices[(indices < 0) | (indices >= count)]):
        raise UsageError(f"label {outside[0]} is not a class index: there are {count} classes, 0 to {count - 1}")
    return indices
