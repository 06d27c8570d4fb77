"""Several runs in one table: the published columns, one row for each model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import BundleError, UsageError
from brainscale.evaluate import evaluate
from brainscale.files import read_success
from brainscale.schema import COMPARISON

COLUMNS = {
    "accuracy": "Accuracy",
    "auroc": "AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "macro_precision": "Avg Precision",
    "macro_recall": "Avg Recall",
}
"""Metric → heading of the published table."""


def ready(runs: Sequence[str]) -> bool:
    """Whether every run has its evaluation, so that no Ray is needed.

    Raises:
        UsageError: two arguments mean the same folder.
        BundleError: a folder is neither a run nor an evaluation.
    """
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UsageError("the same run is named twice: name each once")
    for run in runs:
        if evaluated(Path(run)) is None and not (Path(run) / "config.yaml").is_file():
            raise BundleError(f"{run} is neither a run nor an evaluation: name what train or evaluate wrote")
    return all(evaluated(Path(run)) is not None for run in runs)


def compare(runs: Sequence[str]) -> pa.Table:
    """One row for each run, from its evaluation on the test side; made first where there is none.

    Needs a connected Ray unless the runs are `ready`.

    Args:
        runs: run folders, or folders that `evaluate` wrote.

    Raises:
        BrainscaleError: as `ready` and `evaluate` do.
    """
    ready(runs)
    return pa.Table.from_pylist([_row(Path(run)) for run in runs], schema=COMPARISON)


def evaluated(run: Path) -> Path | None:
    """The complete evaluation that a folder is or has, if any."""
    places = (run, run / "evaluation" / "test")
    return next((p for p in places if (p / "metrics.parquet").is_file() and read_success(p) is not None), None)


def same_samples(runs: Sequence[str]) -> bool:
    """Whether all runs were evaluated on the same samples; figures on different ones do not compare."""
    folders = [evaluated(Path(run)) for run in runs]
    return len({_facts(folder)["samples_sha256"] for folder in folders if folder is not None}) == 1


def _row(run: Path) -> dict[str, Any]:
    folder = evaluated(run)
    if folder is None:
        folder = Path(evaluate(str(run))["out"])
    facts = _facts(folder)
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    values = {row["metric"]: row["value"] for row in rows if row["metric"] in COLUMNS}
    return {
        **values,
        "model": facts["model"],
        "run": facts["run"],
        "n": rows[0]["n"],
        "parameters": int(facts["parameters"]),
        "weights_sha256": facts["weights_sha256"],
    }


def _facts(folder: Path) -> dict[str, str]:
    metadata = pq.read_schema(folder / "metrics.parquet").metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def as_text(table: pa.Table) -> str:
    """The table for a terminal, the published columns first."""
    headings = {"model": "Model", **COLUMNS, "n": "Test samples", "parameters": "Parameters"}
    rows = [list(headings.values())]
    rows += [[_cell(row[name]) for name in headings] for row in table.to_pylist()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
