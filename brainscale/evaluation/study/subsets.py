"""Subsets of the test samples: without doubtful labels, in matched pairs, and by size of the tumour."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import require_columns
from brainscale.errors import ManifestError
from brainscale.evaluation.study.predictions import ModelPredictions
from brainscale.seeds import derive
from brainscale.stats.matching import MatchingColumns, match_samples, predict_from_columns
from brainscale.stats.resampling import group_codes

ALL, WITHOUT_DOUBTFUL, MATCHED = "all", "without_doubtful", "matched"
SIZES = ("smallest_third", "middle_third", "largest_third")
Select = Callable[[ModelPredictions], ModelPredictions]
"""Returns some of a model's predictions, or others of the same samples."""


def without_samples(sample_ids: frozenset[str]) -> Select:
    """Return what leaves samples out."""
    return lambda model: model.take(~np.isin(model.sample_ids, list(sample_ids)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Control:
    """What columns of the manifest, such as the position of a slice, say of the label.

    Attributes:
        names: the columns.
        rows: sample id → its row in what follows.
        columns: the columns of all labelled samples.
        groups: int [n], number of each sample's group.
        keys: int [n], a random number of each sample, which decides between equal partners.
        alone: float64 [n], probability of a tumour from the columns alone, learnt from other groups.
        alone_in_pairs: float64 [n], the same learnt from all, as pairs need it; see `evaluation.matched`.
    """

    names: Sequence[str]
    rows: Mapping[str, int]
    columns: MatchingColumns
    groups: np.ndarray
    keys: np.ndarray
    alone: np.ndarray
    alone_in_pairs: np.ndarray

    @classmethod
    def of(cls, manifest: pa.Table, names: Sequence[str], negative: str) -> "Control":
        """Return what columns of a manifest say.

        Raises:
            ManifestError: the manifest has no such column.
            UsageError: several columns have numbers.
        """
        require_columns(manifest, names)
        table = _labelled(manifest)
        has_tumour = pc.not_equal(table["label"], negative).to_numpy()
        groups = group_codes(pc.coalesce(table["group"], table["sample_id"]))
        columns = MatchingColumns.of({name: table[name].to_pylist() for name in names}, has_tumour)
        ids = table["sample_id"].to_pylist()
        return cls(
            names=tuple(names),
            rows={sample_id: row for row, sample_id in enumerate(ids)},
            columns=columns,
            groups=groups,
            keys=np.array([derive(0, "match", sample_id) for sample_id in ids], np.int64),
            alone=predict_from_columns(columns, has_tumour, groups),
            alone_in_pairs=predict_from_columns(columns, has_tumour),
        )

    def _rows(self, model: ModelPredictions) -> np.ndarray:
        return np.array([self.rows[sample_id] for sample_id in model.sample_ids.tolist()], np.int64)

    def pair(self, model: ModelPredictions) -> ModelPredictions:
        """Return the predictions of the test samples that have a partner among the model's other test samples."""
        rows = self._rows(model)
        columns = self.columns.take(rows)
        return model.take(match_samples(columns, model.has_tumour, self.groups[rows], self.keys[rows]).rows)

    def predict(self, model: ModelPredictions) -> ModelPredictions:
        """Return what the columns alone predict for the same samples."""
        return replace(model, scores=self.alone[self._rows(model)], threshold=0.5)

    def predict_in_pairs(self, model: ModelPredictions) -> ModelPredictions:
        """Return what the columns alone predict for the samples in pairs."""
        paired = self.pair(model)
        return replace(paired, scores=self.alone_in_pairs[self._rows(paired)], threshold=0.5)


def by_size(manifest: pa.Table, column: str, negative: str) -> tuple[dict[str, Select], list[float]]:
    """Return the thirds of the tumours by size, each with all samples without a tumour, and the two sizes between them.

    Args:
        manifest: samples, of which those with a tumour have a size.
        column: column with the size.
        negative: label of the samples without a tumour.

    Raises:
        ManifestError: the manifest has no such column of numbers.
    """
    require_columns(manifest, [column])
    table = _labelled(manifest)
    table = table.filter(pc.and_(pc.not_equal(table["label"], negative), pc.is_valid(table[column])))
    try:
        sizes = table[column].cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        raise ManifestError(f"column {column} has no numbers to divide tumours by: name another one") from None
    if not len(sizes):
        raise ManifestError(f"no sample with a tumour has a value of {column}: name another column")
    bounds = np.quantile(sizes, [1 / 3, 2 / 3])
    third = dict(zip(table["sample_id"].to_pylist(), np.searchsorted(bounds, sizes, "left").tolist(), strict=True))

    def select(number: int) -> Select:
        def take(model: ModelPredictions) -> ModelPredictions:
            is_third = np.array([third.get(sample_id) == number for sample_id in model.sample_ids.tolist()], bool)
            return model.take(is_third | ~model.has_tumour)

        return take

    return {name: select(number) for number, name in enumerate(SIZES)}, bounds.tolist()


def _labelled(manifest: pa.Table) -> pa.Table:
    return manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["label"])))
