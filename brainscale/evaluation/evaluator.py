"""A model on labelled samples: predictions, figures with intervals, plots and a report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.cluster.capacity import require_shared
from brainscale.config.sections import Config, ResourcesConfig
from brainscale.dataset.groups import DISTANCE
from brainscale.dataset.indexer import index_sources
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest, manifest_fingerprint, read_manifest
from brainscale.dataset.overlap import find_overlap
from brainscale.dataset.splits import SPLITS
from brainscale.errors import ManifestError
from brainscale.evaluation.look_log import log_look
from brainscale.evaluation.outputs import EvaluatedModel, write_outputs
from brainscale.models.bundle import FILES, Bundle, open_bundle
from brainscale.scoring.on_ray import predict_rows
from brainscale.storage.local import SUCCESS, write_success
from brainscale.storage.remote import below, is_address
from brainscale.storage.workspace import fetch, open_workspace
from brainscale.training.history import HISTORY_FILE
from brainscale.training.run_folder import RunFolder

OURS = ("predictions.parquet", "metrics.parquet")
OF_A_RUN = (MANIFEST_FILE, HISTORY_FILE, SUCCESS, "*.jsonl", f"evaluation/*/{SUCCESS}")
"""What is read of a run, beside its model."""
SEEN_SPLITS = ("train", "val")
"""Sides that a model has seen, as its weights or as their choice."""


def evaluate_model(
    model: str,
    out: str | None = None,
    *,
    data: str | None = None,
    split: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    prevalence: float | None = None,
    by: Sequence[str] = (),
    training_manifest: str = "auto",
    shared: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Evaluate a model on one side of a split, or on a whole labelled source, with the threshold it came with.

    Needs a connected Ray.

    Args:
        model: a RUN or a bundle folder.
        out: where to write; by default RUN/evaluation/SPLIT, and RUN/evaluation/DATA-SPLIT for other data than its own.
        data: a manifest or a source; by default the RUN's own manifest.
        split: train, val, test or all; by default test where there is one, else all. A source has the RUN's sides
            where it holds nothing else, or where one is named.
        engine: auto, onnx or torch.
        workers: engines side by side at most; without it, all that the cluster has room for.
        prevalence: of tumours where the model is to be used, for predictive values there.
        by: columns of the manifest whose subgroups get figures of their own.
        training_manifest: what the model was trained on, to find samples of other data in it; auto: the RUN's.
        shared: whether paths are on storage that every node of a cluster mounts.
        on_notice: told if nodes have to be waited for.

    Returns:
        What `_SUCCESS.json` says, with `out`, and the `metrics` and their 95 % `intervals` by name.

    Raises:
        BrainscaleError: no model, no such split or column, no labels, or labels the model does not know.
    """
    require_shared([data, out], shared)
    with fetch(model, *FILES, *OF_A_RUN, push=True) as given:
        bundle = open_bundle(given)
        place = _run_of(bundle) or given
        manifest = _manifest(place, data, split, bundle, shared)
        split, rows = choose_rows(manifest, split)
        require_shared(rows["uri"].to_pylist(), shared)
        asked = EvaluationRequest(
            data=data,
            split=split,
            engine=engine,
            workers=workers,
            prevalence=prevalence,
            by=tuple(by),
            training_manifest=training_manifest,
            on_notice=on_notice,
        )
        own = data is None or manifest_fingerprint(manifest) == bundle.info.manifest_sha256
        name = split if own else f"{(_name(data) or 'data').removesuffix('.parquet')}-{split}"
        folder = out or place / "evaluation" / name
        with open_workspace(folder, (SUCCESS,), known=OURS, what="evaluation") as at:
            facts = _evaluated(place, bundle, manifest, rows, asked, at.path)
        default = below(model, f"evaluation/{name}") if is_address(model) else str(at)
        return {**facts, "out": str(at) if out else default}


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The arguments of `evaluate`, with the split that was chosen."""

    data: str | None
    split: str
    engine: str
    workers: int | None
    prevalence: float | None
    by: tuple[str, ...]
    training_manifest: str
    on_notice: Callable[[str], None]


def _evaluated(
    place: Path, bundle: Bundle, manifest: pa.Table, rows: pa.Table, asked: EvaluationRequest, folder: Path
) -> dict[str, Any]:
    """Predict, compare with the labels, and write what came of it."""
    labels = _labels(rows, bundle)
    if unknown := [name for name in asked.by if name not in rows.column_names]:
        raise ManifestError(f"the manifest has no column {unknown[0]}: there are {', '.join(rows.column_names)}")
    (folder / SUCCESS).unlink(missing_ok=True)
    began = time.monotonic()
    table = predict_rows(rows, bundle, asked.engine, asked.workers, asked.on_notice)
    seconds = time.monotonic() - began
    samples = manifest_fingerprint(rows)
    run = _run_of(bundle)
    done = EvaluatedModel(
        bundle=bundle,
        run=run,
        manifest=manifest,
        rows=rows,
        predictions=table,
        labels=labels,
        shared=_leaked(place, asked, rows),
        looks=log_look(run, sealed, folder) if run and (sealed := _sealed(rows)) else None,
        prevalence=asked.prevalence,
        by=asked.by,
    )
    facts = {
        "model": bundle.info.architecture,
        "run": place.absolute().name,
        "data": _name(asked.data),
        "split": asked.split,
        "samples": len(rows),
        "errors": len(table) - table["error_code"].null_count,
        "shared_with_training": None if done.shared is None else len(done.shared),
        "looks": done.looks,
        "prevalence": asked.prevalence,
        "images_per_second": round(len(rows) / seconds, 2),
        "parameters": bundle.info.parameters,
        "weights_sha256": bundle.info.weights_sha256,
        "samples_sha256": samples,
        "manifest_sha256": manifest_fingerprint(manifest),
    }
    figures = write_outputs(folder, done, facts)
    write_success(folder, facts)
    return {
        **facts,
        "metrics": {row["metric"]: row["value"] for row in figures.to_pylist()},
        "intervals": {row["metric"]: [row["low"], row["high"]] for row in figures.to_pylist()},
    }


def _run_of(bundle: Bundle) -> Path | None:
    """The run that a bundle lies in: its looks are counted, and it knows what was learnt, named or not."""
    run = RunFolder(bundle.folder.absolute().parent)
    return run.path if run.is_started() else None


def _name(data: str | None) -> str | None:
    """What to call the data: the last part of its place, without a store's options."""
    return data and PurePosixPath(data.partition("?")[0]).name


def _manifest(place: Path, data: str | None, split: str | None, bundle: Bundle, shared: bool) -> pa.Table:
    """The manifest to evaluate on."""
    own = RunFolder(place).manifest_file
    if data is None:
        if not own.is_file():
            raise ManifestError(f"{place} has no manifest of its own: say what to evaluate on with --data")
        return read_manifest(own)
    if is_manifest(data):
        return read_manifest(data)
    manifest = index_sources([data], Config(data=bundle.info.data, resources=ResourcesConfig(shared=shared)))
    return with_splits_of_run(manifest, read_manifest(own), split) if own.is_file() else manifest


def with_splits_of_run(manifest: pa.Table, run: pa.Table, split: str | None) -> pa.Table:
    """An indexed source with the sides of a run, content by content.

    A source that holds other files too has them only where a side is asked for: else the few test images that an
    outside set shares with the run would stand for all of it.

    Args:
        manifest: of the source.
        run: the run's manifest.
        split: the side that was asked for, if any.
    """
    side = dict(zip(run["sha256"].to_pylist(), run["split"].to_pylist(), strict=True))
    contents = manifest["sha256"].to_pylist()
    if split is None and not side.keys() >= set(contents):
        return manifest
    splits = pa.array([side.get(content) for content in contents], pa.string())
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), splits)


def _sealed(rows: pa.Table) -> list[str]:
    """Contents of the rows that were to stay unseen: the test part, in all sides too; else all but what was learnt."""
    test = rows.filter(pc.equal(rows["split"], "test"))
    unseen = test if len(test) else rows.filter(pc.invert(pc.is_in(rows["split"], pa.array(SEEN_SPLITS))))
    return [str(content) for content in unseen["sha256"].drop_null().to_pylist()]


def _leaked(place: Path, asked: EvaluationRequest, rows: pa.Table) -> pa.Table | None:
    """Samples that the model has learnt from or was chosen by, exactly or nearly; None where that is not known."""
    own, auto = RunFolder(place).manifest_file, asked.training_manifest == "auto"
    if auto and not own.is_file():
        return None
    training = read_manifest(own if auto else asked.training_manifest)
    learnt = training.filter(pc.is_in(training["split"], pa.array(SEEN_SPLITS)))
    return find_overlap(learnt if len(learnt) else training, rows, DISTANCE)


def choose_rows(manifest: pa.Table, split: str | None) -> tuple[str, pa.Table]:
    """The rows of one side.

    Raises:
        ManifestError: no row stands on that side.
    """
    there = [side for side in SPLITS if pc.any(pc.equal(manifest["split"], side)).as_py()]
    split = split or ("test" if "test" in there else "all")
    if split == "all":
        return split, manifest
    if split not in there:
        raise ManifestError(f"no sample stands on side '{split}': there are {', '.join([*there, 'all'])}")
    return split, manifest.filter(pc.equal(manifest["split"], split))


def _labels(rows: pa.Table, bundle: Bundle) -> dict[str, int]:
    """sample_id → class index of the labelled rows."""
    classes = list(bundle.info.classes)
    pairs = zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True)
    known = {sample_id: label for sample_id, label in pairs if label is not None}
    if not known:
        raise ManifestError("no sample has a label: name the folders after classes, or use `brainscale score`")
    strange = sorted(set(known.values()) - set(classes))
    if strange:
        raise ManifestError(f"label '{strange[0]}' is no class of the model: known: {', '.join(classes)}")
    return {sample_id: classes.index(label) for sample_id, label in known.items()}
