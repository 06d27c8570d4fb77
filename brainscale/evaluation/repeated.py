"""Evaluations that are there already: the same model, samples and options give the same folder, which is read."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import PIECE, is_manifest, read_manifest
from brainscale.errors import BrainscaleError
from brainscale.evaluation.preparation import EvaluationRequest, PreparedEvaluation, prepare_evaluation
from brainscale.evaluation.results import (
    MATCHED_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    Evaluation,
    EvaluationFacts,
)
from brainscale.evaluation.units import UNIT_FILES
from brainscale.hashing import file_sha256, fingerprint
from brainscale.models.shipped import locate_model
from brainscale.schema import FORMATS
from brainscale.storage.local import SUCCESS, read_success, remove_abandoned
from brainscale.storage.remote import is_address
from brainscale.storage.tables import read_table
from brainscale.storage.workspace import fetch
from brainscale.training.run_folder import RunFolder
from brainscale.version import __version__

PLACES = ("uri",)
"""Columns of a manifest that say where a sample is, not what it is."""
KEYED = ("patient", "scan", "group")
"""Columns whose values depend on a key: what counts is which samples have the same."""
NO_OPTIONS = ("engine", "workers", "training_manifest", "command", "on_notice")
"""Fields of a request that change no result, or are hashed by their content."""


def fingerprint_evaluation(prepared: PreparedEvaluation) -> str:
    """Return the hash of all that an evaluation depends on: model, samples by content, options, formats."""
    options: dict[str, Any] = {
        field.name: getattr(prepared.request, field.name)
        for field in fields(EvaluationRequest)
        if field.name not in NO_OPTIONS
    }
    return fingerprint(
        {
            "model": prepared.bundle.sha256,
            "run": prepared.run.path.absolute().name,
            "samples": hash_contents(prepared.manifest),
            "training": _hash_training(prepared.run, prepared.request.training_manifest),
            "options": options,
            "formats": FORMATS,
            "brainscale": __version__,
        }
    )


def hash_contents(manifest: pa.Table) -> str:
    """Return the hash of a manifest's rows, in their order, wherever the files are and whatever key hid the patients.

    Args:
        manifest: a table of schema MANIFEST, perhaps with columns of the user's own.
    """
    digest = hashlib.sha256()
    for name in sorted(set(manifest.column_names) - {*PLACES}):
        column = manifest[name].combine_chunks()
        if name in KEYED:
            column = column.dictionary_encode().indices  # numbers in the order in which the values come first
        for start in range(0, len(column), PIECE):
            piece = column.slice(start, PIECE)
            for part in (pc.is_valid(piece), piece.drop_null()):
                digest.update(name.encode())
                digest.update(pa.record_batch([part], [name]).serialize())
    return digest.hexdigest()


def _hash_training(run: RunFolder, training_manifest: str) -> str | None:
    """Return the hash of the manifest that data leakage is looked for in; None where there is none."""
    if training_manifest != "auto":
        return hash_contents(read_manifest(training_manifest))
    return file_sha256(run.manifest_file) if run.manifest_file.is_file() else None


def read_repeated(location: str | Path, evaluation_sha256: str, *, report: bool = True) -> Evaluation | None:
    """Return the complete evaluation of a folder if it is this one, or None.

    Args:
        location: path or address of the folder.
        evaluation_sha256: hash of the evaluation, as `fingerprint_evaluation` gives it.
        report: whether it has a report.
    """
    try:
        facts = read_facts(location)
        if facts.get("evaluation_sha256") != evaluation_sha256:
            return None
        unit, kind = facts["unit"], f"{facts['unit']}s"
        with fetch(location, METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, MATCHED_FILE, *UNIT_FILES) as folder:
            if report and not (folder / REPORT_FILE).is_file():
                return None
            return Evaluation(
                **{field.name: facts[field.name] for field in fields(EvaluationFacts)},
                path=str(location),
                metrics=read_table(folder / METRICS_FILE, "metrics"),
                predictions=read_table(folder / PREDICTIONS_FILE, "predictions"),
                matched=None if facts["matched_on"] is None else read_table(folder / MATCHED_FILE, "matched"),
                unit_table=None if unit == "slice" else read_table(folder / f"{kind}.parquet", kind),
            )
    except (BrainscaleError, OSError, KeyError):  # damaged, or another version's: it is made again
        return None


def read_facts(location: str | Path) -> dict[str, Any]:
    """Return what a complete folder says of itself; nothing where it is not complete, damaged, or another version's."""
    try:
        with fetch(location, SUCCESS) as folder:
            return read_success(folder) or {}
    except BrainscaleError:
        return {}


def find_repeated(
    model: str,
    out: str | None = None,
    *,
    data: str | pa.Table | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Evaluation | None:
    """Return an evaluation that is there already, or None; needs no Ray.

    A source would have to be read first, and a model in an object store downloaded: `evaluate_model` looks then.

    Args:
        model: path or address of a run or a model folder.
        out: path or address of the output folder.
        data: a manifest or a source.
        on_notice: called with each message for the user, if the evaluation is there.
        options: the other arguments of `evaluate_model`.

    Raises:
        BrainscaleError: no model, or no such split.
    """
    if is_address(model) or (isinstance(data, str) and not is_manifest(data)):
        return None
    notices: list[str] = []
    prepared = prepare_evaluation(Path(locate_model(model)), model, out, data=data, on_notice=notices.append, **options)
    report = prepared.request.report
    if not is_address(prepared.path):
        with suppress(OSError):  # a run that may only be read
            remove_abandoned(Path(prepared.path))
    evaluation = read_repeated(prepared.path, fingerprint_evaluation(prepared), report=report)
    if evaluation is not None:
        for text in [*notices, describe_repeated(evaluation)]:
            on_notice(text)
    return evaluation


def describe_repeated(evaluation: Evaluation) -> str:
    """Return in one line that an evaluation was read and not computed."""
    return (
        f"{evaluation.path} already holds this evaluation of the same model and samples: it was read, not computed "
        "again, and is no new look at the test set"
    )
