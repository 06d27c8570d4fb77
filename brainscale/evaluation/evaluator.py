"""Evaluate a model on labelled samples: predictions, metrics with intervals, plots and a report."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale import progress
from brainscale.dataset.inclusion import describe_measured
from brainscale.dataset.labels import describe_unclear_labels
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest, manifest_fingerprint, write_manifest
from brainscale.dataset.on_ray import choose_map
from brainscale.errors import ManifestError, OutputError, StorageError
from brainscale.evaluation.arguments import OWN_FILES, check_evaluation, require_default_output
from brainscale.evaluation.evaluated_model import EvaluatedModel
from brainscale.evaluation.leakage import find_leaked, unseen_contents
from brainscale.evaluation.look_log import LookCount, log_look
from brainscale.evaluation.matched import require_match
from brainscale.evaluation.outputs import FILES, complete_card, write_outputs
from brainscale.evaluation.preparation import PreparedEvaluation, prepare_evaluation
from brainscale.evaluation.provenance import describe_command
from brainscale.evaluation.repeated import describe_repeated, fingerprint_evaluation, read_facts, read_repeated
from brainscale.evaluation.results import Evaluation, EvaluationFacts
from brainscale.evaluation.units import require_patients
from brainscale.models.bundle import BUNDLE_FILES, Bundle, mark_edited
from brainscale.models.shipped import locate_model
from brainscale.scoring.parts import unusual_rows
from brainscale.scoring.rows import needs_ray, predict_rows
from brainscale.stats.labelled import labelled_rows
from brainscale.storage.local import SUCCESS, replacing_files, write_success
from brainscale.storage.workspace import Workspace, fetch_workspace, open_workspace
from brainscale.training.history import HISTORY_FILE

RUN_FILES = (MANIFEST_FILE, HISTORY_FILE, SUCCESS, "*.jsonl", f"evaluation/*/{SUCCESS}")
"""Files that are read of a run, beside its model."""
LARGE_BOOTSTRAP = 200_000
"""Samples beyond which resamples are Ray tasks."""


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
    match: Sequence[str] = (),
    unit: str = "slice",
    training_manifest: str = "auto",
    show_burned_in: bool = False,
    allow_edited_model: bool = False,
    report: bool = True,
    shared: bool = False,
    overwrite: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Evaluate a model on one split, or on a whole labelled source, with the threshold it came with.

    A small evaluation runs in this process, any other on Ray: on the one that is connected, or on a local one.

    Args:
        model: a RUN or a bundle folder, or the name of a model that comes with brainscale.
        out: where to write; by default RUN/evaluation/SPLIT, and RUN/evaluation/DATA-SPLIT for other data than its own,
            with -UNIT behind it for scans and patients.
        data: a manifest (a table, a path or an address), or a source; by default the RUN's own manifest.
        split: train, val, test or all; by default test where there is one, else all. A source has the RUN's splits
            where all its files are in the RUN's manifest, or where a split is named.
        engine: auto, onnx or torch.
        workers: maximum number of engines side by side; by default all that the cluster has room for.
        prevalence: share of tumours where the model will be used, to compute predictive values for it.
        by: columns of the manifest whose subgroups get metrics of their own.
        match: columns of the manifest to match pairs of samples on, for metrics that these columns cannot explain.
        unit: what is decided on: slice, scan or patient.
        training_manifest: manifest that the model was trained on, to find data leakage; auto: the RUN's.
        show_burned_in: whether the report shows pictures of samples whose pixels may show text, such as a name.
        allow_edited_model: whether to evaluate a model whose model.json was edited; every output says so.
        report: whether to write the plots and the report beside the tables.
        shared: whether paths are on storage that every node of a cluster mounts.
        overwrite: whether to replace a finished evaluation of another model or other data.
        on_notice: called with a line if nodes have to be waited for.

    Raises:
        BrainscaleError: no model, no such split or column, no labels, or labels that are not classes of the model.
    """
    check_evaluation(model, out, data=data, split=split, engine=engine, training_manifest=training_manifest)
    locations = [data if isinstance(data, str) else None, out]
    with ExitStack() as stack:
        is_source = isinstance(data, str) and not is_manifest(data)
        if is_source and needs_ray(0, engine, workers):  # to index it
            _open_ray(stack, workers, locations, shared=shared)
        with fetch_workspace(locate_model(model), *BUNDLE_FILES, *RUN_FILES) as source:
            prepared = prepare_evaluation(
                source.path,
                model,
                out,
                data=data,
                split=split,
                engine=engine,
                workers=workers,
                prevalence=prevalence,
                by=by,
                match=match,
                unit=unit,
                training_manifest=training_manifest,
                show_burned_in=show_burned_in,
                allow_edited_model=allow_edited_model,
                report=report,
                shared=shared,
                command=describe_command(
                    model,
                    {
                        "--data": "TABLE" if isinstance(data, pa.Table) else data,
                        "--split": split,
                        "--out": out,
                        "--prevalence": prevalence,
                        "--by": tuple(by),
                        "--match": tuple(match),
                        "--unit": None if unit == "slice" else unit,
                        "--training-manifest": None if training_manifest == "auto" else training_manifest,
                        "--show-burned-in": show_burned_in,
                        "--allow-edited-model": allow_edited_model,
                        "--no-report": not report,
                    },
                ),
                on_notice=on_notice,
            )
            _require_usable(prepared)
            evaluation_sha256 = fingerprint_evaluation(prepared)
            if (repeated := read_repeated(prepared.path, evaluation_sha256, report=report)) is not None:
                on_notice(describe_repeated(repeated))
                return repeated
            if not overwrite:
                _require_own(prepared)
            if out is None:
                require_default_output(prepared.folder)
            progress.announce(f"{len(prepared.rows):,} samples to predict; the results go to {prepared.path}")
            if needs_ray(len(prepared.rows), engine, workers):
                _open_ray(stack, workers, [*locations, *prepared.rows["uri"].to_pylist()], shared=shared)
            try:
                with (
                    open_workspace(prepared.folder, (SUCCESS,), own_files=OWN_FILES, what="evaluation") as workspace,
                    replacing_files(workspace.path, FILES) as folder,
                ):
                    return _evaluate(prepared, evaluation_sha256, folder, source)
            finally:
                _publish(source, prepared)


def _open_ray(stack: ExitStack, workers: int | None, locations: Iterable[str | None], *, shared: bool) -> None:
    """Connect to Ray until the stack ends, and refuse locations that not every node can read."""
    from brainscale.cluster.capacity import require_shared  # here: small evaluations need no Ray
    from brainscale.cluster.session import session

    stack.enter_context(session(workers))
    require_shared(locations, shared)


def _require_own(prepared: PreparedEvaluation) -> None:
    """Refuse a folder with a finished evaluation of another model or other data, and say if other options replace one.

    Raises:
        OutputError: the folder holds such an evaluation.
    """
    there = read_facts(prepared.path)
    if not there:
        return
    now = {"weights_sha256": prepared.bundle.info.weights_sha256, "data": prepared.request.data_name}
    now["manifest_sha256"] = manifest_fingerprint(prepared.manifest)
    differing = [name for name in now if there.get(name) != now[name]]
    if differing:
        what = "another model" if differing[0] == "weights_sha256" else "other data"
        raise OutputError(
            f"{prepared.path} holds a finished evaluation of {what}: --overwrite replaces it, or choose another --out"
        )
    prepared.request.on_notice(f"This replaces the evaluation in {prepared.path}, which was made with other options.")


def _publish(source: Workspace, prepared: PreparedEvaluation) -> None:
    """Upload what was written to a run in an object store; one that refuses loses no output that is elsewhere."""
    try:
        source.push()
    except StorageError:
        if Path(prepared.folder).is_relative_to(source.path):  # the outputs are in it
            raise
        prepared.request.on_notice("Note: the object store of the run accepts no changes; the run stays as it was.")


def _evaluate(prepared: PreparedEvaluation, evaluation_sha256: str, folder: Path, source: Workspace) -> Evaluation:
    """Predict, compare with the labels, and write the outputs to a local folder."""
    bundle, run, rows, request = prepared.bundle, prepared.run, prepared.rows, prepared.request
    leaked = find_leaked(rows, run, request.training_manifest)
    write_manifest(prepared.manifest, folder / MANIFEST_FILE)
    prepared.drop_signatures()  # nothing needs them from here on
    rows = prepared.rows
    for text in describe_unclear_labels(rows, bundle.info.data):
        request.on_notice(text)
    own_run = prepared.own_run
    if measured := describe_measured(rows, own_run.config().data if own_run else bundle.info.data):
        request.on_notice(measured)
    start = time.monotonic()
    predictions = predict_rows(rows, bundle, request.engine, request.workers, request.on_notice)
    predictions = mark_edited(predictions, bundle)
    seconds = time.monotonic() - start
    looks = _count_looks(prepared, source)
    evaluated = EvaluatedModel(
        bundle=bundle,
        run=own_run,
        manifest=prepared.manifest,
        rows=rows,
        predictions=predictions,
        leaked=leaked,
        looks=None if looks is None else looks.looks,
        prevalence=request.prevalence,
        by=request.by,
        match=request.match,
        show_burned_in=request.show_burned_in,
        command=request.command,
        unit=request.unit,
        report=request.report,
    )
    if evaluated.of_units is not None and (missing := evaluated.of_units.without_unit):
        request.on_notice(f"Note: {missing} sample(s) are left out: their {request.unit} is not known.")
    if evaluated.no_threshold is not None:
        request.on_notice(f"Note: no metric that needs a threshold has a value: {evaluated.no_threshold}.")
    matched = evaluated.matched
    facts = EvaluationFacts(
        model=bundle.info.architecture,
        run=run.path.absolute().name,
        data=request.data_name,
        split=request.split,
        samples=len(rows),
        unit=request.unit,
        aggregation=None if evaluated.of_units is None else evaluated.of_units.aggregation,
        units=len(evaluated.labelled),
        labelled_samples=len(labelled_rows(predictions)),
        unlabelled_samples=evaluated.unlabelled,
        errors=len(predictions) - predictions["error_code"].null_count,
        shared_with_training=None if leaked is None else len(leaked),
        looks=evaluated.looks,
        looks_note=None if looks is None else looks.not_logged,
        degenerate=evaluated.degenerate,
        unusual=None if bundle.novelty is None else unusual_rows(predictions),
        matched_on=None if matched is None else matched.columns,
        caliper=None if matched is None else matched.caliper,
        pairs=None if matched is None else matched.pairs,
        samples_without_pair=None if matched is None else matched.left_out,
        prevalence=request.prevalence,
        images_per_second=round(len(rows) / seconds, 2),
        parameters=bundle.info.parameters,
        model_edited=bundle.edited,
        weights_sha256=bundle.info.weights_sha256,
        samples_sha256=manifest_fingerprint(rows),
        manifest_sha256=manifest_fingerprint(prepared.manifest),
        evaluation_sha256=evaluation_sha256,
    )
    metrics = write_outputs(folder, evaluated, facts, choose_map(len(evaluated.labelled), LARGE_BOOTSTRAP))
    try:
        complete_card(evaluated, metrics, facts)
    except OutputError as error:
        reason = str(error).rpartition(": ")[0]  # a run that one may only read is no fault to mend
        request.on_notice(f"Note: the model card stays as it was: {reason}")
    write_success(folder, facts.to_json(), "evaluation")
    tables = {"metrics": metrics, "predictions": predictions}
    unit_table = None if evaluated.of_units is None else evaluated.of_units.table
    return Evaluation(
        **facts.to_json(),
        path=prepared.path,
        **tables,
        unit_table=unit_table,
        matched=None if matched is None else matched.table(),
    )


def _count_looks(prepared: PreparedEvaluation, source: Workspace) -> LookCount | None:
    """Log the look at samples that training did not see; None without such samples, or without a run."""
    unseen = unseen_contents(prepared.rows)
    if prepared.own_run is None or not unseen:
        return None
    return log_look(
        prepared.own_run.path,
        unseen,
        prepared.bundle.sha256,
        Path(prepared.path).name,
        publish=source.push,
        on_notice=prepared.request.on_notice,
    )


def _require_usable(prepared: PreparedEvaluation) -> None:
    """Check that the samples have the labels and patients that were asked for, before anything is written."""
    rows, request = prepared.rows, prepared.request
    _require_labels(rows, prepared.bundle)
    require_match(rows, request.match, request.unit)
    require_patients(rows, request.unit)


def _require_labels(rows: pa.Table, bundle: Bundle) -> None:
    classes, labels = list(bundle.info.classes), set(pc.unique(rows["label"].drop_null()).to_pylist())
    if not labels:
        raise ManifestError("no sample has a label: name the folders after classes, or use `brainscale score`")
    if unknown := sorted(labels - set(classes)):
        raise ManifestError(f"label '{unknown[0]}' is not a class of the model: its classes are {', '.join(classes)}")
