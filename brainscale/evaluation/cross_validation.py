"""Cross-validation as one run: a model for each fold, its predictions pooled."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.cluster.capacity import require_capacity, require_shared
from brainscale.config.sections import Config
from brainscale.dataset.indexer import index_sources
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest, manifest_fingerprint, read_manifest, write_manifest
from brainscale.dataset.splits import assign_folds
from brainscale.errors import ManifestError, OutputError
from brainscale.evaluation.on_ray import Fold, folds_at_once, train_folds
from brainscale.schema import PUBLISHED
from brainscale.stats import metrics
from brainscale.storage.local import SUCCESS, read_success, write_success
from brainscale.storage.tables import read_table, write_table
from brainscale.storage.workspace import Workspace, open_workspace
from brainscale.training.workers import resources_per_worker, with_workers, workers_of

FIGURES = tuple(f"repeat-*/evaluation/test/{name}.parquet" for name in ("metrics", "predictions", "manifest"))


def cross_validate(
    data: str,
    out: str,
    config: Config,
    *,
    folds: int,
    repeats: int = 1,
    at_once: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train and evaluate a model for each fold; run again, go on where it stopped.

    Fold i is the test part of model i, fold i + 1 its validation part, and it learns from the others; no group is
    cut. Needs a connected Ray.

    Args:
        data: a manifest, or a source to index.
        out: the folder of all runs, a path or an address.
        config: of each of them.
        folds: 3 or more.
        repeats: times that the folds are cut anew, with the seed's successors.
        at_once: folds side by side, at most; as many as the cluster has room for, without it. The models are the same.
        say: takes a line when a fold begins, ends an epoch, or has something to tell.

    Returns:
        What `_SUCCESS.json` says: figures of each fold with mean and spread, and of all predictions pooled.

    Raises:
        BrainscaleError: the data cannot be folded or trained on, or the folder is another's.
    """
    require_shared([data, out], config.resources.shared)
    with open_workspace(out, (SUCCESS,), known=("repeat-*", "folds-*.parquet"), what="cross-validation") as folder:
        own = {"folds": folds, "repeats": repeats, "config_sha256": config.fingerprint}
        done = read_success(folder.path)
        _refuse_other(folder, done, own)
        table = read_manifest(data) if is_manifest(data) else index_sources([data], config)
        own["manifest_sha256"] = manifest_fingerprint(table)
        _refuse_other(folder, done, own)
        if done is not None:
            return done
        config = with_workers(config, workers_of(config))  # a fold each, side by side, rather than one on many
        if waiting := require_capacity(workers_of(config), resources_per_worker(config)):
            say(waiting)
        every = [one for repeat in range(1, repeats + 1) for one in _cut(table, folder, config, folds, repeat, repeats)]
        train_folds(every, folder, config, folds_at_once(config, at_once), say)
        folder.pull(*FIGURES)
        facts = {**_summary([one.evaluation for one in every], folder.path, config), **own}
        write_success(folder.path, facts)
    return facts


def _cut(table: pa.Table, folder: Workspace, config: Config, folds: int, repeat: int, repeats: int) -> Iterator[Fold]:
    """The folds of one repeat, with their manifests written."""
    cut = assign_folds(table, folds=folds, seed=config.split.seed + repeat - 1)
    write_manifest(cut, folder.place(f"folds-{repeat}.parquet"))
    for number in range(folds):
        stem = f"repeat-{repeat}/fold-{number + 1}"
        one = Fold(
            name=f"repeat {repeat} of {repeats}, fold {number + 1} of {folds}",
            manifest=folder.place(f"{stem}.parquet"),
            run=folder.place(stem),
            copy=folder.path / stem,
        )
        write_manifest(splits_of_fold(cut, folds, number), one.manifest)
        yield one


def _refuse_other(folder: Workspace, done: Mapping[str, Any] | None, own: Mapping[str, Any]) -> None:
    """Refuse to take another cross-validation's figures for these."""
    other = next((name for name, value in own.items() if done is not None and done.get(name) != value), None)
    if other is not None:
        raise OutputError(f"{folder} is a cross-validation with another {other}: choose a new --out")


def splits_of_fold(cut: pa.Table, folds: int, number: int) -> pa.Table:
    """The folds as sides of a split.

    Args:
        cut: a manifest with folds.
        folds: how many.
        number: of the fold that is the test part, from 0; the next is the validation part.

    Raises:
        ManifestError: fewer than three folds, which leave nothing to learn from.
    """
    if folds < 3:
        raise ManifestError(f"{folds} folds leave nothing to learn from beside a test and a validation part: give 3")
    place = {number: "test", (number + 1) % folds: "val"}
    sides = [None if at is None else place.get(at, "train") for at in cut["fold"].to_pylist()]
    at = cut.schema.get_field_index("split")
    return cut.set_column(at, cut.schema.field("split"), pa.array(sides, pa.string()))


def _summary(evaluations: list[Path], folder: Path, config: Config) -> dict[str, Any]:
    """Figures of each fold, their mean and deviation, and the pooled ones with intervals."""
    each = [metrics.as_mapping(read_table(path / "metrics.parquet", "metrics")) for path in evaluations]
    spread = {}
    for name in PUBLISHED:
        values = np.array([rows[name]["value"] for rows in each if rows[name]["value"] is not None], np.float64)
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        spread[name] = {"mean": float(values.mean()) if len(values) else None, "deviation": deviation}
    pooled = _pooled(evaluations, config)
    write_table(pooled, folder / "metrics.parquet", "metrics")
    named = ("value", "low", "high", "n")
    return {
        "models": [str(path.relative_to(folder).parent.parent) for path in evaluations],
        "figures": {name: [rows[name]["value"] for rows in each] for name in PUBLISHED},
        "spread": spread,
        "pooled": {row["metric"]: {key: row[key] for key in named} for row in pooled.to_pylist()},
    }


def _pooled(evaluations: list[Path], config: Config) -> pa.Table:
    """Figures over all out-of-fold predictions, each called at its own model's threshold.

    A group's samples, and repeats of one, are drawn together.
    """
    classes = list(config.data.classes)
    used, groups, thresholds = [], [], []
    for path in evaluations:
        table = read_table(path / "predictions.parquet", "predictions", ["sample_id", "label", "probabilities"])
        table = table.filter(pc.and_(pc.is_valid(table["label"]), pc.is_valid(table["probabilities"])))
        manifest = read_manifest(path / MANIFEST_FILE)
        group = dict(zip(manifest["sample_id"].to_pylist(), manifest["group"].to_pylist(), strict=True))
        groups += [group[sample_id] or sample_id for sample_id in table["sample_id"].to_pylist()]
        thresholds += [float(read_table(path / "metrics.parquet", "metrics").schema.metadata[b"threshold"])] * len(
            table
        )
        used.append(table)
    together = pa.concat_tables(used)
    labels = np.array([classes.index(label) for label in together["label"].to_pylist()], np.int64)
    chances = np.array(together["probabilities"].to_pylist(), np.float64)
    return metrics.compute_metrics(labels, chances, classes, np.array(thresholds), groups=groups)


def as_text(found: dict[str, Any]) -> str:
    """A line for each figure: mean and deviation over the folds, then pooled with its interval."""
    lines = [f"{'figure':<18}{'mean of folds':>15}{'deviation':>11}{'pooled':>9}  95 % interval"]
    for name in PUBLISHED:
        mean, deviation = (found["spread"][name][key] for key in ("mean", "deviation"))
        pooled = found["pooled"][name]
        interval = "–" if pooled["low"] is None else f"{pooled['low']:.4f} to {pooled['high']:.4f}"
        numbers = ("–" if value is None else f"{value:.4f}" for value in (mean, deviation, pooled["value"]))
        shown = list(numbers)
        lines.append(f"{name.replace('_', ' '):<18}{shown[0]:>15}{shown[1]:>11}{shown[2]:>9}  {interval}")
    return "\n".join(lines)
