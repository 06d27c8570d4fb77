"""Assign samples to splits and folds so that every group stays in one of them.

Splits and folds are balanced: each has its share of the samples of each label, as closely as the groups let. The result
is a function of the groups, their labels and the seed, not of the order of the rows. More groups than
`BALANCED_GROUPS` are assigned by a hash of the group instead, with the same shares on average.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.balance import Counts, balance_groups
from brainscale.dataset.columns import replace_column
from brainscale.errors import ManifestError
from brainscale.seeds import derive

SPLITS = ("train", "val", "test")
BALANCED_GROUPS = 1_000_000
"""Largest number of groups that are balanced; more are assigned by hash."""


def assign_splits(manifest: pa.Table, *, val: float, test: float, seed: int, keep: pa.Table | None = None) -> pa.Table:
    """Fill the column `split` with train, val and test.

    Args:
        manifest: samples with group and label; a sample with an error, without a label or left out gets no split.
        val: validation fraction (model selection).
        test: test fraction (final evaluation).
        seed: seed of the assignment.
        keep: manifest with an earlier split. A group keeps the split of its samples, recognised by their sha256. If
            they were in several splits, it takes train before val before test, so that no sample from training is
            tested on.

    Raises:
        ManifestError: a split has no group of some label, or the earlier manifest has no splits.
    """
    earlier = {} if keep is None else _earlier_splits(manifest, keep)
    return _assign(manifest, "split", split_shares(val, test), seed, earlier)


def split_shares(val: float, test: float) -> dict[str, float]:
    """Return split → its share of the samples, without splits that have none."""
    fractions = {"train": 1 - val - test, "val": val, "test": test}
    return {split: fraction for split, fraction in fractions.items() if fraction > 0}


def assign_folds(manifest: pa.Table, *, folds: int, seed: int, keep: pa.Table | None = None) -> pa.Table:
    """Fill the column `fold` with 0 … folds − 1.

    Args:
        manifest: samples with group and label; a sample with an error, without a label or left out gets no fold.
        folds: number of folds, 2 or more.
        seed: seed of the assignment.
        keep: manifest with earlier folds. A group keeps the fold of its samples, recognised by their sha256. If they
            were in several folds, it takes the fold of most of them, the lowest of equals.

    Raises:
        ManifestError: a fold has no group of some label, or the earlier manifest has no folds or another number.
    """
    if folds < 2:
        raise ManifestError(f"{folds} fold(s) leave nothing to train on: use 2 or more")
    earlier = {} if keep is None else _earlier_folds(manifest, keep, folds)
    return _assign(manifest, "fold", dict.fromkeys(range(folds), 1 / folds), seed, earlier)


def notice_of_hashing(manifest: pa.Table) -> str | None:
    """Return a line for the user if the manifest has too many groups to balance them, or None."""
    return notice_of_many_groups(pc.count_distinct(manifest["group"]).as_py())


def notice_of_many_groups(groups: int) -> str | None:
    """Return a line for the user if so many groups are not balanced, or None."""
    if groups <= BALANCED_GROUPS:
        return None
    return (
        f"{groups:,} groups, more than {BALANCED_GROUPS:,}: they are assigned by hash, so that splits or folds have "
        "their shares of the samples and labels on average, but are not balanced"
    )


def _earlier_splits(manifest: pa.Table, keep: pa.Table) -> dict[str, str]:
    """Return group → the split of its samples in an earlier manifest."""
    require_earlier_splits(pc.unique(keep["split"].drop_null()).to_pylist())
    return _earlier_values(manifest, keep, "split", lambda values: min(values, key=SPLITS.index))


def require_earlier_splits(splits: Sequence[str]) -> None:
    """Check the distinct splits of an earlier manifest.

    Raises:
        ManifestError: there are none, or an unknown one.
    """
    if not splits:
        raise ManifestError("the manifest of the earlier split has no splits: give one that `brainscale split` wrote")
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ManifestError(f"the earlier manifest has an unknown split '{unknown[0]}': use {', '.join(SPLITS)}")


def _earlier_folds(manifest: pa.Table, keep: pa.Table, folds: int) -> dict[str, int]:
    """Return group → the fold of its samples in an earlier manifest."""
    require_earlier_folds(pc.max(keep["fold"]).as_py(), folds)
    return _earlier_values(manifest, keep, "fold", _most_common)


def require_earlier_folds(last: int | None, folds: int) -> None:
    """Check the largest fold of an earlier manifest.

    Raises:
        ManifestError: there is none, or it has another number of folds.
    """
    if last is None:
        raise ManifestError(
            "the manifest of the earlier folds has no folds: give one that `brainscale split --folds` wrote"
        )
    if last + 1 != folds:
        raise ManifestError(f"the earlier manifest has {last + 1} folds, not {folds}: use its number of folds")


def _most_common(folds: Sequence[int]) -> int:
    """Return the most common fold, the lowest of equals."""
    return min(Counter(folds).items(), key=lambda item: (-item[1], item[0]))[0]


def _earlier_values(
    manifest: pa.Table, keep: pa.Table, column: str, choose: Callable[[Sequence[Any]], Any]
) -> dict[str, Any]:
    """Return group → the value that `choose` takes from those of its samples in an earlier manifest."""
    rows = keep.filter(pc.and_(pc.is_valid(keep[column]), pc.is_valid(keep["sha256"])))
    values_of_content: dict[str, list[Any]] = defaultdict(list)
    for digest, value in zip(rows["sha256"].to_pylist(), rows[column].to_pylist(), strict=True):
        values_of_content[digest].append(value)
    values_of_group: dict[str, list[Any]] = defaultdict(list)
    for group, digest in zip(manifest["group"].to_pylist(), manifest["sha256"].to_pylist(), strict=True):
        if group is not None and digest in values_of_content:
            values_of_group[group].append(choose(values_of_content[digest]))
    return {group: choose(values) for group, values in values_of_group.items()}


def _assign(
    manifest: pa.Table, column: str, shares: Mapping[Any, float], seed: int, earlier: Mapping[str, Any]
) -> pa.Table:
    """Fill a column with a value for each group.

    Args:
        manifest: samples with group and label.
        column: `split` or `fold`.
        shares: value → its share of the samples.
        seed: seed of the assignment.
        earlier: group → value that it keeps. Groups that keep a value without a share are not counted in the balance.

    Raises:
        ManifestError: a value has no group of some label.
    """
    is_labelled = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["label"]))
    without_group = manifest["sample_id"].filter(pc.and_(is_labelled, pc.is_null(manifest["group"])))
    if len(without_group):
        raise missing_groups(len(without_group), without_group[0].as_py())
    is_used = pc.and_(is_labelled, pc.is_null(manifest["left_out"]))
    groups, group_of_row = _encode(manifest["group"].filter(is_used))
    labels, label_of_row = _encode(manifest["label"].filter(is_used))
    if not labels:
        raise missing_labels()
    cells = np.bincount(group_of_row * len(labels) + label_of_row, minlength=len(groups) * len(labels))
    counts = cells.reshape(len(groups), len(labels))
    values = list(shares)
    number = {value: n for n, value in enumerate(values)}
    kept = np.array([number.get(earlier[group], len(values)) if group in earlier else -1 for group in groups])
    keys = np.array([derive(seed, column, group) for group in groups], np.int64)
    assigned = assign_groups_to(shares, counts, labels, keys, kept, seed, column, is_kept=bool(earlier))
    value_of_group = [
        earlier[group] if n == len(values) else values[n] for group, n in zip(groups, assigned.tolist(), strict=True)
    ]
    kind = manifest.schema.field(column).type
    rows = np.full(len(manifest), -1)
    rows[is_used.to_numpy(zero_copy_only=False)] = group_of_row
    return replace_column(manifest, column, pa.array(value_of_group, kind).take(pa.array(rows, mask=rows < 0)))


def assign_groups_to(
    shares: Mapping[Any, float],
    counts: Counts,
    labels: Sequence[str],
    keys: Counts,
    kept: Counts,
    seed: int,
    column: str,
    *,
    is_kept: bool,
) -> Counts:
    """Return the place in `shares` of each group's split or fold, int64 [groups].

    Args:
        shares: value → its share of the samples.
        counts: number of samples of each group and label, int64 [groups, labels].
        labels: the labels.
        keys: `derive(seed, column, group)` of each group, int64 [groups].
        kept: place in `shares` that a group keeps; −1 for a new group, the number of shares for another value.
        seed: seed of the assignment.
        column: `split` or `fold`.
        is_kept: whether there is an earlier split.

    Raises:
        ManifestError: a value has no group of some label.
    """
    values = list(shares)
    _require_enough_groups(counts, labels, len(values), column)
    counted = kept < len(values)
    assigned = kept.copy()
    if len(keys) > BALANCED_GROUPS:
        assigned[kept < 0] = _draw_by_hash(keys[kept < 0], list(shares.values()))
    else:
        tie_order = sorted(range(len(values)), key=lambda n: derive(seed, column, "order", n))
        assigned[counted] = balance_groups(
            counts[counted], list(shares.values()), keys[counted], kept[counted], tie_order
        )
    _require_every_label(counts, assigned, labels, values, column, is_kept)
    return assigned


def missing_groups(count: int, first: str) -> ManifestError:
    """Return the error for labelled samples without a group."""
    return ManifestError(
        f"{count} labelled sample(s) have no group, the first of them '{first}': make the groups again with "
        "`brainscale split --regroup`"
    )


def missing_labels() -> ManifestError:
    """Return the error for a manifest without labels."""
    return ManifestError("no sample has a label: name the folders after classes, or set data.classes")


def _encode(column: pa.ChunkedArray) -> tuple[list[str], Counts]:
    """Return the sorted distinct values of a column without nulls, and the number of each row's value."""
    codes = column.combine_chunks().dictionary_encode()
    order = pc.sort_indices(codes.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return codes.dictionary.take(pa.array(order)).to_pylist(), rank[codes.indices.to_numpy()]


def _draw_by_hash(keys: Counts, shares: Sequence[float]) -> Counts:
    """Return the number of the split of each group, from its key alone."""
    upper_ends = list(accumulate(shares))[:-1]
    return np.searchsorted(upper_ends, keys / 2**63, side="right")


def _require_enough_groups(counts: Counts, labels: Sequence[str], splits: int, column: str) -> None:
    """Check that each label has a group for every split or fold.

    Raises:
        ManifestError: a label has fewer groups.
    """
    groups_of_label = (counts > 0).sum(axis=0)
    label = int(np.argmin(groups_of_label))
    if groups_of_label[label] >= splits:
        return
    sizes = counts.sum(axis=1)
    largest, total = int(sizes.max()), int(sizes.sum())
    fewer = ", or use fewer folds" if column == "fold" else ""
    hint = (
        f"; if the {largest} of {total} samples in the largest group are of several patients, name these with "
        "`brainscale index --patient-from REGEX`"
    )
    raise ManifestError(
        f"{groups_of_label[label]} group(s) with label '{labels[label]}' are too few for {splits} {column}s: "
        f"add images of this label{fewer}{hint if 2 * largest > total else ''}"
    )


def _require_every_label(
    counts: Counts, assigned: Counts, labels: Sequence[str], values: Sequence[Any], column: str, is_kept: bool
) -> None:
    """Check that every label is in every split or fold.

    Raises:
        ManifestError: a split or fold has no group of some label.
    """
    has_label = counts > 0
    present = np.array([has_label[assigned == n].any(axis=0) for n in range(len(values))])
    if present.all():
        return
    label, number = np.argwhere(~present.T)[0]
    remedy = "split without the earlier manifest, or add images of this label" if is_kept else "use another seed"
    raise ManifestError(
        f"none of the {has_label[:, label].sum()} group(s) with label '{labels[label]}' is in "
        f"{column} '{values[number]}': {remedy}"
    )
