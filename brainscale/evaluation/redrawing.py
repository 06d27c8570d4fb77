"""Render the report of an evaluation again from its tables: nothing is predicted, and nobody looks at a test set."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from brainscale.dataset.manifest import MANIFEST_FILE, read_manifest, without_signatures
from brainscale.errors import BundleError, OutputError
from brainscale.evaluation.drawing import ReportTables, draw_report
from brainscale.evaluation.evaluated_model import EvaluatedModel
from brainscale.evaluation.preparation import choose_rows
from brainscale.evaluation.repeated import read_repeated
from brainscale.evaluation.results import (
    LEAKED_FILE,
    METRICS_FILE,
    REPORT_FILE,
    REPORT_OPTIONS,
    SUBGROUPS_FILE,
    WITHOUT_LEAKED_FILE,
    Evaluation,
    EvaluationFacts,
)
from brainscale.models.bundle import BUNDLE_FILES, Bundle, open_bundle
from brainscale.models.shipped import describe_model_notes, locate_model
from brainscale.stats.units import require_unit
from brainscale.storage.local import SUCCESS, read_success
from brainscale.storage.remote import is_address, join_address
from brainscale.storage.tables import read_table
from brainscale.storage.workspace import fetch
from brainscale.training.run_folder import run_of

READ = (*BUNDLE_FILES, "*.parquet", f"*{SUCCESS}")
"""Files that are read of a run or an evaluation in an object store."""
FOLDER = "evaluation"
"""Folder of a run with its evaluations."""


def redraw_reports(
    location: str, *, model: str | None = None, on_notice: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Render report.html again, of an evaluation or of all evaluations in a run, and return the paths or addresses.

    Pictures and heatmaps are drawn from the images; where these are gone or changed, the report says so.

    Args:
        location: path or address of a run, a model folder or an evaluation.
        model: the model of an evaluation that is not in its run.
        on_notice: called with each message for the user.

    Raises:
        OutputError: there is no complete evaluation of this version, or the report cannot be written.
        BundleError: the model is missing, or is not the one that was evaluated.
    """
    with fetch(location, *READ, push=True) as path:
        folders = (
            [path] if _is_evaluation(path) else [mark.parent for mark in sorted(path.glob(f"{FOLDER}/*/{SUCCESS}"))]
        )
        if not folders:
            raise OutputError(f"{location} is no evaluation, and no run with one: run `brainscale evaluate` first")
        reports = []
        for folder in folders:
            with fetch(_locate(folder, model, location), *BUNDLE_FILES) as bundle_folder:
                _redraw(folder, bundle_folder, on_notice)
            name = (folder / REPORT_FILE).relative_to(path).as_posix()
            reports.append(join_address(location, name) if is_address(location) else str(Path(location, name)))
        return reports


def _is_evaluation(path: Path) -> bool:
    facts = read_success(path)
    return facts is not None and "evaluation_sha256" in facts


def _locate(folder: Path, model: str | None, location: str) -> str | Path:
    """Return where the model of an evaluation is."""
    if model is not None:
        return locate_model(model)
    if folder.absolute().parent.name == FOLDER:
        return folder.absolute().parents[1]
    raise BundleError(f"{location} is not in the folder of its run: say which model was evaluated with --model")


def _redraw(folder: Path, model: Path, on_notice: Callable[[str], None]) -> None:
    facts = read_success(folder) or {}
    evaluation = read_repeated(folder, facts.get("evaluation_sha256", ""), report=False)
    if evaluation is None:
        raise OutputError(f"{folder} is damaged, or of another version of brainscale: run `brainscale evaluate` again")
    bundle = open_bundle(model, allow_edited=evaluation.model_edited)
    for text in describe_model_notes(bundle):
        on_notice(text)
    evaluated = _read_evaluated(folder, bundle, evaluation)
    _require_same_model(evaluated, evaluation, folder, model)
    tables = ReportTables(
        evaluation.metrics,
        _read(folder / SUBGROUPS_FILE, "subgroups"),
        _read(folder / WITHOUT_LEAKED_FILE, "metrics"),
    )
    known = EvaluationFacts(**{field.name: getattr(evaluation, field.name) for field in fields(EvaluationFacts)})
    time = datetime.fromtimestamp((folder / METRICS_FILE).stat().st_mtime, UTC)
    draw_report(folder, evaluated, known, tables, time)


def _read_evaluated(folder: Path, bundle: Bundle, evaluation: Evaluation) -> EvaluatedModel:
    manifest = without_signatures(read_manifest(folder / MANIFEST_FILE))
    options: dict[str, Any] = json.loads((evaluation.metrics.schema.metadata or {}).get(REPORT_OPTIONS.encode(), b"{}"))
    return EvaluatedModel(
        bundle=bundle,
        run=run_of(bundle),
        manifest=manifest,
        rows=choose_rows(manifest, evaluation.split)[1],
        predictions=evaluation.predictions,
        leaked=_read(folder / LEAKED_FILE, "overlap"),
        looks=evaluation.looks,
        prevalence=evaluation.prevalence,
        match=options.get("match", ()),
        show_burned_in=options.get("show_burned_in", False),
        command=options.get("command"),
        unit=require_unit(evaluation.unit),
        evaluation=folder,
    )


def _require_same_model(evaluated: EvaluatedModel, evaluation: Evaluation, folder: Path, model: Path) -> None:
    """Refuse a model with other weights, or with another threshold than that of the metrics.

    Raises:
        BundleError: it is not the model that was evaluated.
    """
    point = evaluated.operating_point
    threshold = (evaluation.metrics.schema.metadata or {}).get(b"threshold")
    same_threshold = threshold == str(None if point is None else point.threshold).encode()
    if evaluated.bundle.info.weights_sha256 != evaluation.weights_sha256 or not same_threshold:
        raise BundleError(f"{folder} is an evaluation of another model than {model}: say which one with --model")


def _read(path: Path, kind: str) -> pa.Table | None:
    with suppress(FileNotFoundError):
        return read_table(path, kind)
    return None
