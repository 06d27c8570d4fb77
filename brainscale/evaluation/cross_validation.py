"""Cross-validate as one run: a model for each fold, and the metrics of all of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.manifest import MANIFEST_FILE, is_manifest, manifest_fingerprint, read_manifest, write_manifest
from brainscale.errors import OutputError
from brainscale.evaluation.arguments import FOLDS_FILES, check_cross_validation
from brainscale.evaluation.cross_validation_result import CrossValidation
from brainscale.evaluation.fold_data import FoldedData, divide_into_folds
from brainscale.evaluation.folds import Fold, can_train_folds_here, train_folds_here
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.schema import PUBLISHED, PUBLISHED_MULTICLASS
from brainscale.stats.estimate import estimates_of
from brainscale.stats.folds import measure_folds
from brainscale.stats.labelled import LabelledProbabilities, labelled_rows
from brainscale.storage.local import SUCCESS, read_success, write_success
from brainscale.storage.tables import read_table, write_table
from brainscale.storage.workspace import Workspace, open_workspace
from brainscale.training.workers import count_workers, set_workers

SHOWN = (*PUBLISHED, "average_precision", "calibration_slope", "calibration_intercept")
"""Metrics whose spread over the folds is reported."""
SHOWN_MULTICLASS = (
    *(*PUBLISHED_MULTICLASS, "macro_average_precision", "tumour_average_precision"),
    *("tumour_calibration_slope", "tumour_calibration_intercept"),
)
"""The same for models with more than two classes."""
EVALUATION_FILES = tuple(f"repeat-*/evaluation/test/{name}" for name in (METRICS_FILE, PREDICTIONS_FILE, MANIFEST_FILE))


def cross_validate(
    data: str | pa.Table,
    out: str,
    config: Config,
    *,
    folds: int | None = None,
    folds_by: str | None = None,
    repeats: int = 1,
    parallel_folds: int | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> CrossValidation:
    """Train and evaluate a model for each fold, or resume a cross-validation that was stopped.

    Fold i is the test split of model i; with `folds_by`, the samples of one value. The share `split.val` of the other
    folds becomes its validation split, and the rest its training split; no group is divided. Small folds are trained
    without Ray, one after another.

    Args:
        data: a manifest (a table, a path or an address), or a source to index. Samples that have a fold keep it in the
            first repeat.
        out: the folder of all runs, a path or an address.
        config: configuration of each of them.
        folds: number of folds, 2 or more; None with `folds_by`.
        folds_by: column of the manifest each of whose values is one fold, such as a site.
        repeats: number of times that the data is divided into folds, with successive seeds; 1 with `folds_by`.
        parallel_folds: maximum number of folds to train at the same time; by default as many as the cluster has room
            for. The models are the same.
        on_notice: called with a line when a fold begins, ends an epoch, or has something to tell.

    Raises:
        BrainscaleError: the data cannot be folded or trained on, or the folder is another's.
    """
    check_cross_validation(data, out, folds, folds_by, repeats)
    is_source = isinstance(data, str) and not is_manifest(data)
    locations = [data if isinstance(data, str) else None, out]
    with ExitStack() as stack:
        if is_source and not can_train_folds_here(config, parallel_folds):  # to index it
            _open_ray(stack, config, locations)
        workspace = stack.enter_context(open_workspace(out, (SUCCESS,), own_files=FOLDS_FILES, what="cross-validation"))
        facts: dict[str, Any] = {"folds_by": folds_by, "repeats": repeats, "config_sha256": config.fingerprint}
        finished = read_success(workspace.path)
        refuse_other(workspace, finished, facts)
        folded = divide_into_folds(data, config, folds, folds_by, repeats, on_notice)
        folds = folded.folds
        facts |= {"folds": folds, "manifest_sha256": folded.fingerprint}
        facts |= {} if folds_by is None else {"fold_names": folded.fold_names}
        refuse_other(workspace, finished, facts)
        if finished is not None:
            workspace.pull(METRICS_FILE)
            metrics = read_table(workspace.path / METRICS_FILE, "metrics")
            models, by_fold = finished["models"], finished["figures"]
            return CrossValidation(path=str(workspace), models=models, by_fold=by_fold, metrics=metrics, **facts)
        config = set_workers(config, count_workers(config))  # a fold each, side by side, rather than one on many
        every_fold = name_folds(workspace, folded, repeats, folds_by)
        _write_manifests(workspace, every_fold, folded)
        if can_train_folds_here(config, parallel_folds, len(folded.manifest)):
            train_folds_here(every_fold, workspace, config, on_notice)
        else:
            _open_ray(stack, config, locations)
            _train_on_ray(every_fold, workspace, config, parallel_folds, on_notice)
        workspace.pull(*EVALUATION_FILES)
        evaluations = [fold.evaluation for fold in every_fold]
        metrics = combine_evaluations(evaluations, list(config.data.classes))
        write_table(metrics, workspace.path / METRICS_FILE, "metrics")
        result = CrossValidation(
            path=str(workspace),
            models=[fold.name_of_run for fold in every_fold],
            by_fold=_by_fold(evaluations),
            metrics=metrics,
            **facts,
        )
        write_success(workspace.path, result.to_json(), "cross-validation")
    return result


def _open_ray(stack: ExitStack, config: Config, locations: Sequence[str | None]) -> None:
    """Connect to Ray until the stack ends, and refuse locations that not every node can read."""
    from brainscale.cluster.capacity import require_shared  # here: small folds need no Ray
    from brainscale.cluster.session import session

    resources = config.resources
    stack.enter_context(session(None if resources.workers == "auto" else resources.workers, resources.object_store_gib))
    require_shared(locations, resources.shared)


def _train_on_ray(
    folds: Sequence[Fold],
    workspace: Workspace,
    config: Config,
    parallel_folds: int | None,
    on_notice: Callable[[str], None],
) -> None:
    """Train and evaluate folds on the connected Ray, side by side."""
    from brainscale.cluster.capacity import require_capacity  # here, as above
    from brainscale.evaluation.on_ray import folds_at_once, train_folds
    from brainscale.training.workers import resources_per_worker

    if waiting := require_capacity(count_workers(config), resources_per_worker(config)):
        on_notice(waiting)
    train_folds(folds, workspace, config, folds_at_once(config, parallel_folds), on_notice)


def name_folds(workspace: Workspace, folded: FoldedData, repeats: int, folds_by: str | None) -> list[Fold]:
    """Return the models of a cross-validation in their order.

    Args:
        workspace: folder of all runs.
        folded: the data, in folds.
        repeats: number of times that the data is divided into folds.
        folds_by: column whose values are the folds, if they are not drawn.
    """
    values = [f" ({folds_by} {name})" for name in folded.fold_names] or [""] * folded.folds
    return [
        _name_fold(workspace, (repeat, repeats), (number, folded.folds), value)
        for repeat in range(1, repeats + 1)
        for number, value in enumerate(values, 1)
    ]


def _name_fold(workspace: Workspace, repeat: tuple[int, int], number: tuple[int, int], value: str = "") -> Fold:
    """Return the names of a model: its repeat and its fold, from 1, each with how many there are, and its value."""
    stem = f"repeat-{repeat[0]}/fold-{number[0]}"
    return Fold(
        title=f"repeat {repeat[0]} of {repeat[1]}, fold {number[0]} of {number[1]}{value}",
        name_of_run=stem,
        manifest=workspace.locate(f"{stem}.parquet"),
        run=workspace.locate(stem),
        copy=workspace.path / stem,
    )


def require_same_manifests(workspace: Workspace, every_fold: Sequence[Fold], folded: FoldedData) -> None:
    """Check the manifests that are in the folder of a cross-validation.

    Raises:
        OutputError: a model has other samples or splits, as those of an earlier version would be.
    """
    for fold, model in zip(every_fold, folded.models, strict=True):
        try:
            earlier = read_table(fold.manifest, "manifest")
        except FileNotFoundError:
            continue
        if manifest_fingerprint(earlier) != manifest_fingerprint(model):
            raise OutputError(
                f"{workspace} holds a cross-validation with other samples or splits ({fold.name_of_run}.parquet): "
                "choose a new --out"
            )


def _write_manifests(workspace: Workspace, every_fold: Sequence[Fold], folded: FoldedData) -> None:
    """Write the manifests of all repeats and models."""
    require_same_manifests(workspace, every_fold, folded)
    for repeat, assigned in enumerate(folded.repeats, 1):
        write_manifest(assigned, workspace.locate(f"folds-{repeat}.parquet"))
    for fold, model in zip(every_fold, folded.models, strict=True):
        write_manifest(model, fold.manifest)


def refuse_other(workspace: Workspace, finished: Mapping[str, Any] | None, facts: Mapping[str, Any]) -> None:
    """Refuse to take another cross-validation's results for these."""
    other = next((name for name, value in facts.items() if finished is not None and finished.get(name) != value), None)
    if other is not None:
        raise OutputError(f"{workspace} is a cross-validation with another {other}: choose a new --out")


def _by_fold(evaluations: Sequence[Path]) -> dict[str, list[float | None]]:
    """Return the value of each metric of SHOWN or SHOWN_MULTICLASS in each fold."""
    estimates = [estimates_of(read_table(folder / METRICS_FILE, "metrics")) for folder in evaluations]
    shown = SHOWN if SHOWN[-1] in estimates[0] else SHOWN_MULTICLASS
    return {name: [by_name[name].value for by_name in estimates] for name in shown}


def combine_evaluations(evaluations: Sequence[Path], classes: Sequence[str]) -> pa.Table:
    """Return the metrics of all out-of-fold predictions, each at the threshold of its own model; see `measure_folds`.

    Args:
        evaluations: folders of the folds' evaluations.
        classes: names of the classes.
    """
    tables, thresholds, groups = [], [], []
    for folder in evaluations:
        columns = ["sample_id", "label", "probabilities"]
        table = labelled_rows(read_table(folder / PREDICTIONS_FILE, "predictions", columns))
        threshold = float(read_table(folder / METRICS_FILE, "metrics").schema.metadata[b"threshold"])
        of_samples = read_manifest(folder / MANIFEST_FILE).select(["sample_id", "group"])
        groups.append(of_samples.filter(pc.is_in(of_samples["sample_id"], table["sample_id"].combine_chunks())))
        tables.append(table)
        thresholds.append(np.full(len(table), threshold))
    samples = LabelledProbabilities.from_predictions(
        pa.concat_tables(tables), classes, threshold=np.concatenate(thresholds), groups=pa.concat_tables(groups)
    )
    return measure_folds(samples, np.repeat(np.arange(len(tables)), [len(table) for table in tables]))
