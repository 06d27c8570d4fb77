"""Check the arguments of evaluations, cross-validations and comparisons before anything starts; needs no torch."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from brainscale.dataset.arguments import require_data
from brainscale.dataset.manifest import MANIFEST_FILE
from brainscale.dataset.splits import SPLITS
from brainscale.errors import BundleError, ManifestError, OutputError, UsageError
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.evaluation.units import evaluation_name
from brainscale.models.bundle import MODEL_JSON, require_bundle
from brainscale.models.engines import EngineOptions, resolve_engine
from brainscale.models.shipped import locate_model
from brainscale.stats.units import require_unit
from brainscale.storage.local import SUCCESS, read_success, require_writable
from brainscale.storage.remote import is_address
from brainscale.storage.workspace import require_folder
from brainscale.training.run_folder import RunFolder

OWN_FILES = (MANIFEST_FILE, PREDICTIONS_FILE, METRICS_FILE)
"""Files of which a folder with an evaluation that is not complete has one at least."""

FOLDS_FILES = ("repeat-*", "folds-*.parquet")
"""Files of which a folder with a cross-validation that is not complete has one at least."""


def check_evaluation(
    model: str,
    out: str | None,
    *,
    data: str | pa.Table | None,
    split: str | None,
    engine: str,
    training_manifest: str = "auto",
) -> None:
    """Check the arguments of an evaluation that can be checked without reading the samples.

    Args:
        model: path or address of a run or a model folder, or the name of a model that comes with brainscale.
        out: path or address of the output folder, if it was named.
        data: a manifest or a source, if it was given.
        split: name of the split, if it was given.
        engine: name of the engine.
        training_manifest: manifest of the training data, or `auto`.

    Raises:
        BrainscaleError: one of them is wrong; the message says which and what to do.
    """
    resolve_engine(EngineOptions(name=engine), 0)
    if split is not None and split not in (*SPLITS, "all"):
        raise ManifestError(f"no split named '{split}': choose {', '.join(SPLITS)} or all")
    if not is_address(model):
        require_bundle(locate_model(model))
    for table in (data, None if training_manifest == "auto" else training_manifest):
        if isinstance(table, str):
            require_data(table)
    if out is not None:
        require_folder(out, (SUCCESS, *OWN_FILES), "evaluation")


def require_default_output(folder: str) -> None:
    """Check that the folder of an evaluation can be written where the user named none: a run may be read-only.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        require_writable(folder)
    except OutputError as error:
        raise OutputError(f"{str(error).rpartition(': ')[0]}: name another folder with --out") from None


def check_cross_validation(
    data: str | pa.Table, out: str, folds: int | None, folds_by: str | None, repeats: int
) -> None:
    """Check the arguments of a cross-validation that can be checked without reading the samples.

    Args:
        data: a manifest or a source.
        out: path or address of the folder of all runs.
        folds: number of folds, if they are drawn.
        folds_by: column whose values are the folds, if they are not.
        repeats: number of times that the data is divided into folds.

    Raises:
        BrainscaleError: one of them is wrong; the message says which and what to do.
    """
    require_folds(folds, folds_by, repeats)
    if isinstance(data, str):
        require_data(data)
    require_folder(out, (SUCCESS, *FOLDS_FILES), "cross-validation")


def require_folds(folds: int | None, folds_by: str | None, repeats: int) -> None:
    """Check that folds are either drawn or the values of a column.

    Raises:
        UsageError: both or none are asked for, or repeats of the same folds.
    """
    if (folds is None) == (folds_by is None):
        raise UsageError(
            "folds are either drawn (--folds N) or values of a column (--folds-by COLUMN): give one of the two"
        )
    if folds_by is not None and repeats > 1:
        raise UsageError(f"--folds-by {folds_by} has the same folds in each repeat: remove --repeats")


def require_runs(runs: Sequence[str], unit: str) -> None:
    """Refuse folders that are no runs and hold no evaluation.

    Raises:
        UsageError: two arguments mean the same folder.
        BundleError: a folder is neither a run nor an evaluation.
    """
    if len({os.path.realpath(run) for run in runs}) < len(runs):
        raise UsageError("the same run is named twice: name each once")
    for run in map(Path, runs):
        if find_evaluation(run, unit) is None and not _has_test_split(RunFolder(run)):
            raise BundleError(f"{run} is neither a run nor an evaluation: name a folder that train or evaluate wrote")


def _has_test_split(run: RunFolder) -> bool:
    """Return whether a folder is a run, or an ensemble that knows the manifests of its members."""
    return run.config_file.is_file() or ((run.path / MODEL_JSON).is_file() and run.manifest_file.is_file())


def find_evaluation(run: Path, unit: str = "slice") -> Path | None:
    """Return the complete evaluation that a folder is, or holds by this unit, or None."""
    folders = (run, RunFolder(run).evaluation(evaluation_name("test", require_unit(unit))))
    return next((f for f in folders if (f / METRICS_FILE).is_file() and read_success(f) is not None), None)
