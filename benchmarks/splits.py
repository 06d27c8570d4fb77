"""How even folds are, beside scikit-learn's StratifiedGroupKFold, and how long it takes to assign many groups.

python benchmarks/splits.py [FOLDER] [--groups 10000 100000 1000000]

FOLDER holds brain_mri_253/ (images in yes/ and no/) and lgg_flair/labels.csv (with patients); without it, only the set
with one giant group is compared. Shares are those of the label tumour in each fold.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from sklearn.model_selection import StratifiedGroupKFold

import brainscale as bs
from brainscale.dataset.splits import assign_folds
from brainscale.schema import MANIFEST

FOLDS = 5
SEEDS = range(5)
COLUMNS = [MANIFEST.field(name) for name in ("sample_id", "group", "label", "fold", "error_code")]


def samples(groups: list[str] | np.ndarray, labels: list[str] | np.ndarray) -> pa.Table:
    """The columns of a manifest that folds depend on."""
    ids = [str(n) for n in range(len(groups))]
    folds, errors = pa.nulls(len(groups), pa.int32()), pa.nulls(len(groups), pa.string())
    return pa.table([ids, groups, labels, folds, errors], schema=pa.schema(COLUMNS))


def read_sets(folder: Path | None) -> Iterator[tuple[str, pa.Table]]:
    if folder is not None:
        yield "brain_mri_253", bs.index(folder / "brain_mri_253")
        slices = pa.csv.read_csv(folder / "lgg_flair" / "labels.csv")
        yield "lgg_flair", samples(slices["patient"].to_pylist(), slices["label"].to_pylist())
    draw = np.random.default_rng(0)
    small = [(f"{i}", ("no_tumour", "tumour")[draw.integers(2)], int(draw.integers(1, 5))) for i in range(300)]
    rows = [("giant", "no_tumour", 50), ("giant", "tumour", 350), *small]
    groups = [group for group, _, size in rows for _ in range(size)]
    yield "a giant group", samples(groups, [label for _, label, size in rows for _ in range(size)])


def fold_with_scikit_learn(table: pa.Table, seed: int) -> np.ndarray:
    labels, groups = table["label"].to_numpy(), table["group"].to_numpy()
    folds = np.empty(len(table), np.int64)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for fold, (_, rows) in enumerate(splitter.split(labels, labels, groups)):
        folds[rows] = fold
    return folds


def describe(table: pa.Table, folds: np.ndarray) -> str:
    is_tumour = table["label"].to_numpy() == "tumour"
    sizes = [int((folds == fold).sum()) for fold in range(FOLDS)]
    shares = [is_tumour[folds == fold].mean() for fold in range(FOLDS)]
    return f"{' '.join(f'{size:4}' for size in sizes)}  {min(shares):.4f} to {max(shares):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--groups", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    print(f"{'set':<14} seed  {'sizes and shares: brainscale':<44}StratifiedGroupKFold")
    for name, table in read_sets(arguments.folder):
        for seed in SEEDS:
            ours = assign_folds(table, folds=FOLDS, seed=seed)["fold"].to_numpy()
            theirs = fold_with_scikit_learn(table, seed)
            print(f"{name:<14} {seed:>4}  {describe(table, ours):<44}{describe(table, theirs)}")
    draw = np.random.default_rng(0)
    for count in arguments.groups:
        sizes = draw.geometric(0.5, count)
        groups = np.repeat(np.arange(count), sizes).astype(str)
        one_label = np.repeat(draw.integers(0, 2, count), sizes)
        for kind, labels in (("one label each", one_label), ("two labels", draw.integers(0, 2, len(groups)))):
            table = samples(groups, np.where(labels, "tumour", "no_tumour"))
            start = time.perf_counter()
            folds = assign_folds(table, folds=FOLDS, seed=0)["fold"].to_numpy()
            seconds = time.perf_counter() - start
            print(f"{count:>9,} groups, {kind}: {seconds:5.2f} s, fold sizes apart {np.ptp(np.bincount(folds))}")


if __name__ == "__main__":
    main()
