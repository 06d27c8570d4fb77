"""Assign samples to splits and folds so that every group stays in one of them.

The split of a group is a function of the seed and of the group alone, so adding, removing or reordering files does not
move it. Each group is assigned with the same probabilities whatever its label, so the classes keep their proportions
on average, but not exactly in each split.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.groups import DISTANCE, find_split_violations, replace_column
from brainscale.errors import ManifestError
from brainscale.seeds import derive

SPLITS = ("train", "val", "test")
TRIES = 100
"""Number of other seeds to try in order to suggest one that works."""


def assign_splits(
    manifest: pa.Table, *, val: float, test: float, seed: int, keep: Mapping[str, str] | None = None
) -> pa.Table:
    """Fill the column `split` with train, val and test.

    Args:
        manifest: samples with group and label; a sample with an error or without a label gets no split.
        val: validation fraction (model selection).
        test: test fraction (final evaluation).
        seed: seed of the assignment.
        keep: sha256 → split of an earlier assignment. A group keeps the split of its samples. If they were in several
            splits, it takes train before val before test, so that no sample from training is tested on.

    Raises:
        ManifestError: a split has no group of some label.
    """
    earlier = _earlier_splits(manifest, keep or {})
    fractions = {"test": test, "val": val, "train": 1 - val - test}
    fractions = {split: fraction for split, fraction in fractions.items() if fraction > 0}

    def assign(seed: int) -> dict[str, str]:
        return {group: earlier.get(group) or _draw_split(group, fractions, seed) for group in labels}

    labels = _labels_of_groups(manifest)
    split_of_group = _assign_every_label(assign, labels, list(fractions), seed, "split")
    return replace_column(manifest, "split", _column_of_groups(manifest, split_of_group, pa.string()))


def assign_folds(manifest: pa.Table, *, folds: int, seed: int) -> pa.Table:
    """Fill the column `fold` with 0 … folds − 1.

    Args:
        manifest: samples with group and label; a sample with an error or without a label gets no fold.
        folds: number of folds.
        seed: seed of the assignment.

    Raises:
        ManifestError: a fold has no group of some label.
    """
    fractions = dict.fromkeys(map(str, range(folds)), 1 / folds)

    def assign(seed: int) -> dict[str, str]:
        return {group: _draw_split(group, fractions, seed, "fold") for group in labels}

    labels = _labels_of_groups(manifest)
    fold_of_group = _assign_every_label(assign, labels, list(fractions), seed, "fold")
    numbers = {group: int(name) for group, name in fold_of_group.items()}
    return replace_column(manifest, "fold", _column_of_groups(manifest, numbers, pa.int32()))


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """A manifest in which every group is in one split and one fold.

    Attributes:
        verified: the columns that were checked: `split`, `fold`, or both.
        groups: number of groups in the manifest.
        cut: number of groups in more than one split or fold: none.
    """

    verified: str
    groups: int
    cut: int = 0


def verify_split(manifest: pa.Table, distance: int = DISTANCE) -> SplitCheck:
    """Check that every group of a manifest is in one split and one fold.

    Args:
        manifest: samples with splits or folds.
        distance: maximum Hamming distance, in bits, between the perceptual hashes of near duplicates.

    Raises:
        ManifestError: a group is in several splits, or the manifest has no splits.
    """
    assigned = [column for column in ("split", "fold") if manifest[column].null_count < len(manifest)]
    if not assigned:
        raise ManifestError("the manifest has neither splits nor folds: run `brainscale split` first")
    if violations := find_split_violations(manifest, distance):
        first = violations[0]
        raise ManifestError(
            f"{len(violations)} pair(s) of samples of one group are in different {first.column}s, for example "
            f"'{first.first_id}' in {first.first_split} and '{first.second_id}' in {first.second_split}: "
            "run `brainscale split` again"
        )
    return SplitCheck(verified=" and ".join(assigned), groups=pc.count_distinct(manifest["group"]).as_py())


def map_content_to_split(manifest: pa.Table) -> dict[str, str]:
    """Return sha256 → split of a manifest, as `assign_splits` takes it to keep an earlier assignment.

    Raises:
        ManifestError: the manifest has no splits.
    """
    rows = manifest.filter(pc.is_valid(manifest["split"]))
    if not len(rows):
        raise ManifestError("the manifest of the earlier split has no splits: give one that `brainscale split` wrote")
    return dict(zip(rows["sha256"].to_pylist(), rows["split"].to_pylist(), strict=True))


def _labels_of_groups(manifest: pa.Table) -> dict[str, set[str]]:
    """Return group → the labels of its samples, for groups with labelled samples."""
    labels: dict[str, set[str]] = defaultdict(set)
    for group, label in zip(manifest["group"].to_pylist(), manifest["label"].to_pylist(), strict=True):
        if group is not None and label is not None:
            labels[group].add(label)
    if not labels:
        raise ManifestError("no sample has a label: name the folders after classes, or set data.classes")
    return dict(sorted(labels.items()))


def _earlier_splits(manifest: pa.Table, keep: Mapping[str, str]) -> dict[str, str]:
    """Return group → the split of its samples in an earlier assignment."""
    rank = {split: n for n, split in enumerate(SPLITS)}
    splits: dict[str, str] = {}
    for group, digest in zip(manifest["group"].to_pylist(), manifest["sha256"].to_pylist(), strict=True):
        if group is not None and (split := keep.get(digest)):
            splits[group] = min(splits.get(group, split), split, key=rank.__getitem__)
    return splits


def _draw_split(group: str, fractions: Mapping[str, float], seed: int, purpose: str = "split") -> str:
    """Return the split of a group, from a number in 0..1 derived from the seed and the group."""
    number = derive(seed, purpose, group) / 2**63
    upper_ends = zip(fractions, accumulate(fractions.values()), strict=True)
    return next((split for split, end in upper_ends if number < end), list(fractions)[-1])


def _assign_every_label(
    assign: Callable[[int], dict[str, str]],
    labels: Mapping[str, set[str]],
    splits: Sequence[str],
    seed: int,
    column: str,
) -> dict[str, str]:
    """Return the assignment with a seed, if it puts every label into every split.

    Args:
        assign: seed → group → split.
        labels: group → its labels.
        splits: names of the splits or folds.
        seed: seed of the assignment.
        column: `split` or `fold`, for the error message.

    Raises:
        ManifestError: a split has no group of some label; the message suggests another seed if one is found.
    """
    missing = _find_missing_label(assign(seed), labels, splits)
    if missing is None:
        return assign(seed)
    label, split = missing
    count = sum(label in group_labels for group_labels in labels.values())
    candidates = range(seed + 1, seed + 1 + TRIES) if count >= len(splits) else ()
    working = next((s for s in candidates if _find_missing_label(assign(s), labels, splits) is None), None)
    if working is None:
        remedy = f"add images of this label, or use fewer {column}s"
    else:
        remedy = f"use seed {working} (--seed of `split`, split.seed of `train`)"
    raise ManifestError(
        f"none of the {count} group(s) with label '{label}' is in {column} '{split}' with seed {seed}: {remedy}"
    )


def _find_missing_label(
    assigned: Mapping[str, str], labels: Mapping[str, set[str]], splits: Sequence[str]
) -> tuple[str, str] | None:
    """Return the first label and a split that has no group of it, or None."""
    present = {(label, assigned[group]) for group, group_labels in labels.items() for label in group_labels}
    all_labels = sorted({label for group_labels in labels.values() for label in group_labels})
    return next(((label, split) for label in all_labels for split in splits if (label, split) not in present), None)


def _column_of_groups(manifest: pa.Table, value_of_group: Mapping[str, object], kind: pa.DataType) -> pa.Array:
    """Return the value of each row's group; null for a row without a label or group."""
    is_labelled = pc.is_valid(manifest["label"]).to_pylist()
    values: Sequence[object] = [
        value_of_group.get(group) if labelled and group is not None else None
        for group, labelled in zip(manifest["group"].to_pylist(), is_labelled, strict=True)
    ]
    return pa.array(values, kind)
