"""Measure what a network must beat: three baselines on a labelled folder, cross-validated by group.

    python benchmarks/baselines.py DATA --out FOLDER [--weights lite0.safetensors] [--baselines header_only hog_svm]
        [--folds 5] [--fold-seed 0] [--set data.crop=1.0]

DATA is a source or a manifest. FOLDER keeps every fold, so that a run that was stopped goes on, and the features of
EfficientNet-Lite0. The weights are those that benchmarks/imagenet_weights.py writes; without them, there are no frozen
features. No Ray is started.
"""

import argparse
from pathlib import Path

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.dataset.from_sources import open_or_index
from brainscale.dataset.inclusion import mark_left_out
from brainscale.dataset.splits import assign_folds
from brainscale.evaluation.baselines.runner import BASELINES, LEARNS_NOTHING, run_baseline
from brainscale.evaluation.cross_validation import combine_evaluations
from brainscale.evaluation.fold_data import splits_of_fold
from brainscale.seeds import derive
from brainscale.stats.estimate import estimates_of

LEARNING = [name for name in BASELINES if name not in LEARNS_NOTHING]
SHOWN = ("accuracy", "auroc", "sensitivity", "specificity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--baselines", nargs="+", choices=LEARNING, default=LEARNING)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fold-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = [*arguments.set, *([f"model.weights={arguments.weights}"] if arguments.weights else [])]
    config = load_config("efficientnet_lite0", settings)
    manifest = mark_left_out(open_or_index(arguments.data, config), config.data)
    manifest = assign_folds(manifest, folds=arguments.folds, seed=arguments.fold_seed)
    print(
        f"brainscale {bs.__version__}, {arguments.data}, {arguments.folds} folds by group, seed {arguments.fold_seed}"
    )
    print(f"{'baseline':<18}{''.join(f'{name:<26}' for name in SHOWN)}seconds")
    for name in arguments.baselines:
        if name == "frozen_features" and arguments.weights is None:
            print(f"{name:<18}not measured: give --weights")
            continue
        folders, seconds = [], 0.0
        for fold in range(arguments.folds):
            seed = derive(config.split.seed, "validation", 1, fold)
            splits = splits_of_fold(manifest, fold, val=config.split.val, seed=seed)
            folder = arguments.out / name / f"seed-{arguments.fold_seed}" / f"fold-{fold + 1}"
            seconds += run_baseline(name, splits, config, folder, cache=arguments.out / "features").seconds
            folders.append(folder)
        estimates = estimates_of(combine_evaluations(folders, list(config.data.classes)))
        cells = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in map(estimates.__getitem__, SHOWN)]
        print(f"{name:<18}{''.join(f'{cell:<26}' for cell in cells)}{seconds:.0f}")


if __name__ == "__main__":
    main()
