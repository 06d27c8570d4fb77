"""Folds by a column of the manifest: each of its values, such as a site, is one fold."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import replace_column, require_columns
from brainscale.dataset.splits import missing_groups, missing_labels
from brainscale.errors import ManifestError


def assign_folds_by(manifest: pa.Table, column: str) -> tuple[pa.Table, list[str]]:
    """Fill the column `fold` with the number of each sample's value in a column, in the order of the values.

    A group has the value of its samples; one whose samples all have none gets no fold, like a sample with an error,
    without a label or left out.

    Args:
        manifest: samples with group and label.
        column: name of a column of texts, truth values or whole numbers.

    Returns:
        The manifest, and the value of each fold as text.

    Raises:
        ManifestError: there is no such column, it has fractions or fewer than two values, a labelled sample has no
            group, or a group has several values.
    """
    require_columns(manifest, [column])
    is_labelled = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["label"]))
    without_group = manifest["sample_id"].filter(pc.and_(is_labelled, pc.is_null(manifest["group"])))
    if len(without_group):
        raise missing_groups(len(without_group), without_group[0].as_py())
    is_used = pc.and_(is_labelled, pc.is_null(manifest["left_out"]))
    rows = np.flatnonzero(is_used.to_numpy())
    if not len(rows):
        raise missing_labels()
    used = manifest.select(list(dict.fromkeys(["sample_id", "group", column]))).take(pa.array(rows))
    values = _list_fold_values(used[column], column)
    codes = pc.index_in(used[column], pa.array(values, used[column].type)).fill_null(-1).to_numpy()
    group_names = used["group"].combine_chunks().dictionary_encode()
    fold_of_group = _find_fold_of_group(group_names.indices.to_numpy(), codes, len(group_names.dictionary))
    conflict = np.flatnonzero((codes >= 0) & (codes != fold_of_group[group_names.indices.to_numpy()]))
    if len(conflict):
        raise _describe_conflict(used, int(conflict[0]), column)
    folds = np.full(len(manifest), -1)
    folds[rows] = fold_of_group[group_names.indices.to_numpy()]
    kind = manifest.schema.field("fold").type
    return replace_column(manifest, "fold", pa.array(folds, kind, mask=folds < 0)), [str(value) for value in values]


def describe_missing_values(manifest: pa.Table, column: str) -> str | None:
    """Return a line for the user if labelled samples have no fold as their group has no value, or None.

    Args:
        manifest: what `assign_folds_by` returned.
        column: the column.
    """
    is_used = pc.and_(
        pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["label"])), pc.is_null(manifest["left_out"])
    )
    count = pc.sum(pc.and_(is_used, pc.is_null(manifest["fold"]))).as_py()
    return f"{count:,} labelled sample(s) are in no fold: their {column} is unknown" if count else None


def _list_fold_values(values: pa.ChunkedArray, column: str) -> list[object]:
    """Return the values of a column that become folds, in order.

    Raises:
        ManifestError: the column has fractions, or fewer than two values.
    """
    if pa.types.is_floating(values.type):
        raise ManifestError(f"column {column} holds decimal numbers, which cannot name folds: choose another column")
    distinct: list[object] = sorted(pc.unique(values.drop_null()).to_pylist())
    if len(distinct) < 2:
        raise ManifestError(
            f"column {column} has {len(distinct)} value(s) among the labelled samples: folds need 2 or more"
        )
    return distinct


def _find_fold_of_group(groups: np.ndarray, folds: np.ndarray, count: int) -> np.ndarray:
    """Return the fold of each group, the lowest of its samples' folds: int64 [count], −1 for none.

    Args:
        groups: int [n], number of each sample's group.
        folds: int [n], fold of each sample, −1 for none.
        count: number of groups.
    """
    lowest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(lowest, groups[folds >= 0], folds[folds >= 0])
    return np.where(lowest == np.iinfo(np.int64).max, -1, lowest)


def _describe_conflict(used: pa.Table, row: int, column: str) -> ManifestError:
    """Return the error for a group with several values, with a sample of each of two.

    Args:
        used: the labelled samples.
        row: a sample whose value is not the lowest of its group.
        column: name of the column.
    """
    second = used.slice(row, 1).to_pylist()[0]
    of_group = used.filter(pc.and_(pc.equal(used["group"], second["group"]), pc.is_valid(used[column])))
    first = next(sample for sample in of_group.to_pylist() if sample[column] != second[column])
    return _conflicting_values(column, second["group"], (first, second))


def _conflicting_values(column: str, group: str, samples: Sequence[dict[str, object]]) -> ManifestError:
    """Return the error for a group whose samples have different values.

    Args:
        column: name of the column.
        group: name of the group.
        samples: sample_id and value of two of its samples.
    """
    named = " and ".join(f"'{sample['sample_id']}' ({sample[column]})" for sample in samples)
    return ManifestError(
        f"group {group} has several values of {column}: {named} are of one patient or near duplicates, and would be in "
        f"different folds; correct {column}, or leave one of them out"
    )
