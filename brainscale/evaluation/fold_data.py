"""Divide data into folds, and make the splits of each fold's model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.columns import replace_column
from brainscale.dataset.folds_by_column import assign_folds_by, describe_missing_values
from brainscale.dataset.from_sources import open_or_index
from brainscale.dataset.inclusion import describe_left_out, mark_left_out
from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.dataset.splits import assign_folds, assign_splits, notice_of_hashing
from brainscale.dataset.summary import describe_gaps
from brainscale.errors import ManifestError
from brainscale.hashing import fingerprint
from brainscale.seeds import derive


@dataclass(frozen=True, kw_only=True)
class FoldedData:
    """Data in folds.

    Attributes:
        manifest: the samples, with the folds of a column if there is one.
        folds: number of folds.
        fold_names: value of each fold, of a column; none where folds are drawn.
        repeats: the manifest with the folds of each repeat.
        models: for each repeat and fold, a manifest with splits.
    """

    manifest: pa.Table
    folds: int
    fold_names: Sequence[str]
    repeats: Sequence[pa.Table]
    models: Sequence[pa.Table]

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the manifest and of the splits of all models."""
        return fingerprint(
            [manifest_fingerprint(self.manifest), *(model["split"].to_pylist() for model in self.models)]
        )


def divide_into_folds(
    data: str | pa.Table,
    config: Config,
    folds: int | None,
    folds_by: str | None,
    repeats: int,
    on_notice: Callable[[str], None],
) -> FoldedData:
    """Open or index the data of a cross-validation, and divide it.

    Args:
        data: a manifest (a table, a path or an address), or a source to index.
        config: configuration of each run.
        folds: number of folds; None with `folds_by`.
        folds_by: column whose values are the folds.
        repeats: number of times that the data is divided.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: the data cannot be folded.
    """
    manifest = mark_left_out(open_or_index(data, config, on_notice), config.data)
    for text in (describe_left_out(manifest), *describe_gaps(manifest, config.data), notice_of_hashing(manifest)):
        if text:
            on_notice(text)
    names: list[str] = []
    if folds_by is not None:
        manifest, names = assign_folds_by(manifest, folds_by)
        if missing := describe_missing_values(manifest, folds_by):
            on_notice(missing)
    count = len(names) if folds is None else folds
    divided = [
        assign_splits_of_folds(manifest, config, count, repeat, is_assigned=folds_by is not None)
        for repeat in range(1, repeats + 1)
    ]
    return FoldedData(
        manifest=manifest,
        folds=count,
        fold_names=names,
        repeats=[assigned for assigned, _ in divided],
        models=[model for _, models in divided for model in models],
    )


def assign_splits_of_folds(
    manifest: pa.Table, config: Config, folds: int, repeat: int, *, is_assigned: bool = False
) -> tuple[pa.Table, list[pa.Table]]:
    """Return the manifest with the folds of a repeat, and a manifest with splits for each of its models."""
    keep = manifest if repeat == 1 and manifest["fold"].null_count < len(manifest) else None
    assigned = manifest
    if not is_assigned:
        assigned = assign_folds(manifest, folds=folds, seed=config.split.seed + repeat - 1, keep=keep)
    seeds = [derive(config.split.seed, "validation", repeat, number) for number in range(folds)]
    return assigned, [splits_of_fold(assigned, n, val=config.split.val, seed=seed) for n, seed in enumerate(seeds)]


def splits_of_fold(manifest: pa.Table, number: int, *, val: float, seed: int) -> pa.Table:
    """Return a manifest with folds as one with splits.

    Args:
        manifest: samples with folds.
        number: the fold that becomes the test split, from 0.
        val: share of the other folds that becomes the validation split; their rest becomes the training split.
        seed: seed of that choice.

    Raises:
        ManifestError: the other folds have a label in one group only.
    """
    folds = manifest["fold"].fill_null(-1).to_numpy()
    is_rest = (folds >= 0) & (folds != number)
    try:
        rest = assign_splits(manifest.filter(pa.array(is_rest)), val=val, test=0, seed=seed)
    except ManifestError as error:
        raise ManifestError(f"with fold {number + 1} as the test split, {error}") from None
    splits = np.full(len(manifest), None, object)
    splits[folds == number] = "test"
    splits[is_rest] = rest["split"].to_pylist()
    return replace_column(manifest, "split", pa.array(splits, pa.string()))
