"""How the data of a piece is divided: folds by group, splits by image or by group, and shares of a training set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import SplitConfig
from brainscale.config.sections import Config
from brainscale.dataset.columns import replace_column
from brainscale.dataset.folds_by_column import assign_folds_by
from brainscale.dataset.splits import assign_folds, assign_splits
from brainscale.evaluation.fold_data import splits_of_fold
from brainscale.seeds import derive

AS_PRINTED, HONEST, LEAK_FREE = "as_printed", "honest_choice", "leak_free"
CONDITIONS = (AS_PRINTED, HONEST, LEAK_FREE)
"""Protocols of a leak part."""
TEST_SHARE = 0.2
"""Share of the samples that a leak part tests on, as the published protocol did."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """The samples of one model.

    Attributes:
        fold: number of the fold, from 0.
        manifest: samples with splits.
        tested: split that the model is tested on.
    """

    fold: int
    manifest: pa.Table
    tested: str = "test"


def divide_into_folds(
    manifest: pa.Table, config: SplitConfig, *, folds: int, fold_by: str | None, repeat: int
) -> Iterator[Division]:
    """Yield the divisions of one cross-validation: the same as `train --folds` makes of the same configuration.

    Args:
        manifest: samples with label and group.
        config: seed of the folds, and validation fraction.
        folds: number of folds.
        fold_by: column whose values are the folds, or None.
        repeat: number of the repetition, from 1.

    Raises:
        ManifestError: the data cannot be divided so.
    """
    assigned = number_folds(manifest, config, folds=folds, fold_by=fold_by, repeat=repeat)
    for number in range(int(pc.max(assigned["fold"]).as_py()) + 1):
        seed = derive(config.seed, "validation", repeat, number)
        yield Division(fold=number, manifest=splits_of_fold(assigned, number, val=config.val, seed=seed))


def number_folds(manifest: pa.Table, config: SplitConfig, *, folds: int, fold_by: str | None, repeat: int) -> pa.Table:
    """Return the manifest with the folds of one repetition in the column `fold`."""
    if fold_by is None:
        return assign_folds(manifest, folds=folds, seed=config.seed + repeat - 1)
    return assign_folds_by(manifest, fold_by)[0]


def divide_for_leak(manifest: pa.Table, config: SplitConfig, condition: str, number: int) -> Division:
    """Return a split of one of the three protocols of a leak part.

    `as_printed` and `honest_choice` test on the same images, drawn without regard to groups, a fifth of all: the first
    lets them stop the training and choose its epoch too, as the published protocol did, and has no validation split.

    Args:
        manifest: samples with label and group.
        config: seed, and validation fraction of all samples.
        condition: one of CONDITIONS.
        number: number of the split, from 1.
    """
    seed = config.seed + number - 1
    if condition == LEAK_FREE:
        return Division(fold=0, manifest=assign_splits(manifest, val=config.val, test=TEST_SHARE, seed=seed))
    single = replace_column(manifest, "group", manifest["sample_id"])
    splits = assign_splits(single, val=config.val, test=TEST_SHARE, seed=seed)["split"]
    if condition == HONEST:
        return Division(fold=0, manifest=replace_column(manifest, "split", splits))
    is_tested = pc.equal(splits, "test")
    chosen = pc.if_else(is_tested, "val", pc.if_else(pc.is_valid(splits), "train", pa.scalar(None, pa.string())))
    return Division(fold=0, manifest=replace_column(manifest, "split", chosen), tested="val")


def take_share(manifest: pa.Table, share: float, seed: int) -> pa.Table:
    """Return a manifest with a share of the groups of its training and validation splits; smaller shares are nested.

    Groups are drawn within each split and label, two at least.

    Args:
        manifest: samples with splits.
        share: share of the groups to keep.
        seed: seed of the draw.
    """
    kept: set[str] = set()
    for split in ("train", "val"):
        in_split = manifest.filter(pc.equal(manifest["split"], split))
        for label in sorted(set(in_split["label"].to_pylist())):
            groups = set(in_split.filter(pc.equal(in_split["label"], label))["group"].to_pylist())
            ordered = sorted(groups, key=lambda group: derive(seed, "share", group))
            kept.update(ordered[: max(2, round(share * len(ordered)))])
    is_kept = np.array([group in kept for group in manifest["group"].to_pylist()])
    is_learnt = np.array([split in ("train", "val") for split in manifest["split"].to_pylist()])
    dropped = pa.array(is_learnt & ~is_kept)
    return replace_column(manifest, "split", pc.if_else(dropped, pa.scalar(None, pa.string()), manifest["split"]))


def equal_steps(config: Config, share: float) -> Config:
    """Return the configuration for a share of the training data with as many steps: epochs grow as the data shrinks."""
    train = config.train
    longer = {
        "epochs": round(train.epochs / share),
        "warmup_epochs": train.warmup_epochs / share,
        "patience": round(train.patience / share),
    }
    return config.model_copy(update={"train": train.model_copy(update=longer)})
