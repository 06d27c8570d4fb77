"""Evaluate a model on labelled samples: predictions, metrics with intervals, plots and a report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.cluster.capacity import require_shared
from brainscale.config.sections import Config, ResourcesConfig
from brainscale.dataset.inclusion import describe_measured
from brainscale.dataset.indexer import open_or_index
from brainscale.dataset.labels import describe_unclear_labels
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest, manifest_fingerprint
from brainscale.dataset.splits import SPLITS
from brainscale.errors import ManifestError
from brainscale.evaluation.leakage import find_leaked, unseen_contents
from brainscale.evaluation.look_log import log_look
from brainscale.evaluation.outputs import METRICS_FILE, PREDICTIONS_FILE, EvaluatedModel, write_outputs
from brainscale.evaluation.results import Evaluation, EvaluationFacts
from brainscale.models.bundle import BUNDLE_FILES, EDITED, Bundle, open_bundle
from brainscale.scoring.on_ray import predict_rows
from brainscale.scoring.parts import unusual_rows
from brainscale.stats.metrics import describe_degenerate
from brainscale.storage.local import SUCCESS, write_success
from brainscale.storage.remote import is_address, join_address, split_options
from brainscale.storage.workspace import fetch, open_workspace
from brainscale.training.history import HISTORY_FILE
from brainscale.training.run_folder import RunFolder

RUN_FILES = (MANIFEST_FILE, HISTORY_FILE, SUCCESS, "*.jsonl", f"evaluation/*/{SUCCESS}")
"""Files that are read of a run, beside its model."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """How to evaluate: the arguments of `evaluate_model`, with the name of the data and the split that was chosen."""

    data_name: str | None
    split: str
    engine: str
    workers: int | None
    prevalence: float | None
    by: tuple[str, ...]
    training_manifest: str
    show_burned_in: bool
    on_notice: Callable[[str], None]


def evaluate_model(
    model: str,
    out: str | None = None,
    *,
    data: str | pa.Table | None = None,
    split: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    prevalence: float | None = None,
    by: Sequence[str] = (),
    training_manifest: str = "auto",
    show_burned_in: bool = False,
    allow_edited_model: bool = False,
    shared: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Evaluate a model on one split, or on a whole labelled source, with the threshold it came with.

    Needs a connected Ray.

    Args:
        model: a RUN or a bundle folder.
        out: where to write; by default RUN/evaluation/SPLIT, and RUN/evaluation/DATA-SPLIT for other data than its own.
        data: a manifest (a table, a path or an address), or a source; by default the RUN's own manifest.
        split: train, val, test or all; by default test where there is one, else all. A source has the RUN's splits
            where all its files are in the RUN's manifest, or where a split is named.
        engine: auto, onnx or torch.
        workers: maximum number of engines side by side; by default all that the cluster has room for.
        prevalence: share of tumours where the model will be used, to compute predictive values for it.
        by: columns of the manifest whose subgroups get metrics of their own.
        training_manifest: manifest that the model was trained on, to find data leakage; auto: the RUN's.
        show_burned_in: whether the report shows pictures of samples whose pixels may show text, such as a name.
        allow_edited_model: whether to evaluate a model whose model.json was edited; every output says so.
        shared: whether paths are on storage that every node of a cluster mounts.
        on_notice: called with a line if nodes have to be waited for.

    Raises:
        BrainscaleError: no model, no such split or column, no labels, or labels that are not classes of the model.
    """
    require_shared([data if isinstance(data, str) else None, out], shared)
    with fetch(model, *BUNDLE_FILES, *RUN_FILES, push=True) as local_model:
        bundle = open_bundle(local_model, allow_edited=allow_edited_model)
        if bundle.edited:
            on_notice(f"Note: {bundle.folder}: {EDITED}.")
        run = run_of(bundle) or RunFolder(local_model)
        manifest = _read_manifest(run, data, split, bundle, shared, on_notice)
        split, rows = choose_rows(manifest, split)
        require_shared(rows["uri"].to_pylist(), shared)
        request = EvaluationRequest(
            data_name=data_name(data),
            split=split,
            engine=engine,
            workers=workers,
            prevalence=prevalence,
            by=tuple(by),
            training_manifest=training_manifest,
            show_burned_in=show_burned_in,
            on_notice=on_notice,
        )
        own = data is None or manifest_fingerprint(manifest) == bundle.info.manifest_sha256
        name = split if own else f"{(request.data_name or 'data').removesuffix('.parquet')}-{split}"
        folder = out or run.evaluation(name)
        with open_workspace(
            folder, (SUCCESS,), own_files=(PREDICTIONS_FILE, METRICS_FILE), what="evaluation"
        ) as workspace:
            path = str(workspace) if out or not is_address(model) else join_address(model, f"evaluation/{name}")
            return _evaluate(run, bundle, manifest, rows, request, workspace.path, path)


def _evaluate(
    run: RunFolder,
    bundle: Bundle,
    manifest: pa.Table,
    rows: pa.Table,
    request: EvaluationRequest,
    folder: Path,
    path: str,
) -> Evaluation:
    """Predict, compare with the labels, and write the outputs to a local folder, the copy of `path`."""
    _require_labels(rows, bundle)
    if unknown := [name for name in request.by if name not in rows.column_names]:
        raise ManifestError(f"the manifest has no column {unknown[0]}: choose {', '.join(rows.column_names)}")
    for text in describe_unclear_labels(rows, bundle.info.data):
        request.on_notice(text)
    own_run = run_of(bundle)
    if measured := describe_measured(rows, own_run.config().data if own_run else bundle.info.data):
        request.on_notice(measured)
    (folder / SUCCESS).unlink(missing_ok=True)
    start = time.monotonic()
    predictions = predict_rows(rows, bundle, request.engine, request.workers, request.on_notice)
    seconds = time.monotonic() - start
    samples_sha256 = manifest_fingerprint(rows)
    leaked = find_leaked(rows, run, request.training_manifest)
    unseen = unseen_contents(rows)
    evaluated = EvaluatedModel(
        bundle=bundle,
        run=own_run,
        manifest=manifest,
        rows=rows,
        predictions=predictions,
        leaked=leaked,
        looks=log_look(own_run.path, unseen, folder) if own_run and unseen else None,
        prevalence=request.prevalence,
        by=request.by,
        show_burned_in=request.show_burned_in,
    )
    facts = EvaluationFacts(
        model=bundle.info.architecture,
        run=run.path.absolute().name,
        data=request.data_name,
        split=request.split,
        samples=len(rows),
        labelled_samples=len(evaluated.labelled),
        unlabelled_samples=evaluated.unlabelled,
        errors=len(predictions) - predictions["error_code"].null_count,
        shared_with_training=None if leaked is None else len(leaked),
        looks=evaluated.looks,
        degenerate=describe_degenerate(evaluated.samples),
        unusual=None if bundle.novelty is None else unusual_rows(predictions),
        prevalence=request.prevalence,
        images_per_second=round(len(rows) / seconds, 2),
        parameters=bundle.info.parameters,
        model_edited=bundle.edited,
        weights_sha256=bundle.info.weights_sha256,
        samples_sha256=samples_sha256,
        manifest_sha256=manifest_fingerprint(manifest),
    )
    metrics = write_outputs(folder, evaluated, facts)
    write_success(folder, facts.to_json())
    return Evaluation(**facts.to_json(), path=path, metrics=metrics, predictions=predictions)


def run_of(bundle: Bundle) -> RunFolder | None:
    """Return the run that a bundle belongs to, also if the bundle was named: it counts evaluations of its test set."""
    run = RunFolder(bundle.folder.absolute().parent)
    return run if run.is_started() else None


def data_name(data: str | pa.Table | None) -> str | None:
    """Return the name of the data: the last part of the path or address, without a store's options."""
    return PurePosixPath(split_options(data)[0]).name if isinstance(data, str) else None


def _read_manifest(
    run: RunFolder,
    data: str | pa.Table | None,
    split: str | None,
    bundle: Bundle,
    shared: bool,
    on_notice: Callable[[str], None],
) -> pa.Table:
    """Read or make the manifest to evaluate on."""
    if data is None:
        if not run.manifest_file.is_file():
            raise ManifestError(f"{run} has no manifest of its own: say what to evaluate on with --data")
        return run.manifest()
    config = Config(data=bundle.info.data, resources=ResourcesConfig(shared=shared))
    manifest = open_or_index(data, config, on_notice)
    if isinstance(data, pa.Table) or is_manifest(data) or not run.manifest_file.is_file():
        return manifest
    return with_splits_of_run(manifest, run.manifest(), split)


def with_splits_of_run(manifest: pa.Table, run_manifest: pa.Table, split: str | None) -> pa.Table:
    """Return an indexed source with the splits of a run, content by content.

    A source that holds other files too has them only where a split is asked for: else the few test images that an
    external set shares with the run would stand for all of it.

    Args:
        manifest: manifest of the source.
        run_manifest: manifest of the run.
        split: the split that was asked for, if any.
    """
    split_of = dict(zip(_contents(run_manifest), run_manifest["split"].to_pylist(), strict=True))
    contents = _contents(manifest)
    if split is None and not split_of.keys() >= set(contents):
        return manifest
    splits = pa.array([split_of.get(content) for content in contents], pa.string())
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), splits)


def _contents(manifest: pa.Table) -> list[tuple[str | None, int | None]]:
    """Return what tells the content of each row from others: the file's sha256 and the frame."""
    return list(zip(manifest["sha256"].to_pylist(), manifest["frame"].to_pylist(), strict=True))


def choose_rows(manifest: pa.Table, split: str | None) -> tuple[str, pa.Table]:
    """Return the name of the split to evaluate, and its rows.

    Raises:
        ManifestError: no row is in that split.
    """
    available = [name for name in SPLITS if pc.any(pc.equal(manifest["split"], name)).as_py()]
    split = split or ("test" if "test" in available else "all")
    if split == "all":
        return split, manifest
    if split not in available:
        choices = " or ".join(filter(None, [", ".join(available), "all"]))
        raise ManifestError(f"no split named '{split}' in the manifest: choose {choices}")
    return split, manifest.filter(pc.equal(manifest["split"], split))


def _require_labels(rows: pa.Table, bundle: Bundle) -> None:
    classes, labels = list(bundle.info.classes), set(rows["label"].drop_null().to_pylist())
    if not labels:
        raise ManifestError("no sample has a label: name the folders after classes, or use `brainscale score`")
    if unknown := sorted(labels - set(classes)):
        raise ManifestError(f"label '{unknown[0]}' is not a class of the model: its classes are {', '.join(classes)}")
