"""Predictions of a run beside the labels of a manifest: the most confidently wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from brainscale.errors import UsageError
from brainscale.storage.remote import is_address
from brainscale.storage.tables import read_table
from brainscale.storage.workspace import fetch

FILE = "predictions.parquet"
PATTERNS = (FILE, f"evaluation/*/{FILE}", f"repeat-*/fold-*/evaluation/test/{FILE}")
"""Where predictions are: in an evaluation, in a run that was evaluated, and in a cross-validation."""
_COLUMNS = ("sha256", "frame", "prediction", "probability", "probabilities", "error_code")


@dataclass(frozen=True, kw_only=True)
class WrongPrediction:
    """A sample whose predictions differ from its label.

    Attributes:
        row: row of the manifest.
        prediction: the wrong class that was predicted with the highest probability.
        probability: mean probability of the wrong classes that were predicted.
        wrong: number of wrong predictions.
        predictions: number of predictions.
    """

    row: int
    prediction: str
    probability: float
    wrong: int
    predictions: int


def read_predictions(folder: str) -> pa.Table:
    """Read the predictions of an evaluation, a run or a cross-validation.

    Args:
        folder: path or address.

    Raises:
        UsageError: the folder holds no predictions.
        OutputError: a table of predictions cannot be read.
    """
    with fetch(folder, *PATTERNS) as local:
        files = sorted(path for pattern in PATTERNS for path in local.glob(pattern))
        if not files and not is_address(folder) and not local.is_dir():
            raise UsageError(f"--audit-run {folder} is no folder: name a run, an evaluation or a cross-validation")
        if not files:
            raise UsageError(
                f"--audit-run {folder} holds no predictions: run `brainscale evaluate` on it, or name a "
                "cross-validation or the folder of an evaluation"
            )
        tables = [read_table(file, "predictions", _COLUMNS) for file in files]
    table = pa.concat_tables(tables)
    return table.filter(table["error_code"].is_null())


def find_wrong(manifest: pa.Table, predictions: pa.Table, classes: Sequence[str]) -> tuple[list[WrongPrediction], int]:
    """Return samples whose predictions differ from their labels, the most confidently wrong first.

    Samples are recognised by their content (SHA-256 and frame), not by their names. Of identical files, the first one
    with such a label is named.

    Args:
        manifest: the samples with their labels.
        predictions: table of schema PREDICTIONS, or some of its columns.
        classes: classes of the labels, the one without a tumour first.

    Returns:
        The samples, and the number of labelled contents for which there are predictions.
    """
    by_content: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for row in predictions.to_pylist():
        by_content.setdefault((row["sha256"], row["frame"]), []).append(row)
    compared, wrong = set(), {}
    for number, sample in enumerate(manifest.select(["sha256", "frame", "label", "error_code"]).to_pylist()):
        content = (sample["sha256"], sample["frame"])
        if sample["error_code"] is not None or sample["label"] not in classes or content not in by_content:
            continue
        compared.add(content)
        rows = by_content[content]
        misses = [
            (_confidence(row, classes), row["prediction"]) for row in rows if row["prediction"] != sample["label"]
        ]
        if misses and content not in wrong:
            wrong[content] = WrongPrediction(
                row=number,
                prediction=max(misses)[1],
                probability=sum(confidence for confidence, _ in misses) / len(misses),
                wrong=len(misses),
                predictions=len(rows),
            )
    ordered = sorted(wrong.values(), key=lambda case: -case.probability * case.wrong / case.predictions)
    return ordered, len(compared)


def _confidence(row: dict[str, Any], classes: Sequence[str]) -> float:
    """Return the probability of the predicted class."""
    if row["prediction"] == classes[0]:
        return 1 - float(row["probability"])
    return float(row["probability"]) if len(row["probabilities"]) == 2 else float(max(row["probabilities"][1:]))
