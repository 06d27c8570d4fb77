"""Read and write history.parquet, a table with one row for each finished epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from brainscale.schema import HISTORY
from brainscale.storage.tables import read_table, write_table

HISTORY_FILE = "history.parquet"


class Epoch(TypedDict):
    """A finished epoch: a row of schema HISTORY."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    best: bool
    weights_sha256: str
    hardware: str


def tracked_metrics(epoch: Epoch) -> dict[str, float]:
    """Return the metrics of an epoch for TensorBoard and MLflow."""
    return {
        "learning_rate": epoch["learning_rate"],
        "train_loss": epoch["train_loss"],
        "train_accuracy": epoch["train_accuracy"],
        "val_loss": epoch["val_loss"],
        "val_accuracy": epoch["val_accuracy"],
    }


def read_history(run: Path) -> list[Epoch]:
    """Return the finished epochs of a run, or an empty list before the first has finished."""
    try:
        rows: list[Epoch] = read_table(run / HISTORY_FILE, "history").to_pylist()
    except FileNotFoundError:
        return []
    return rows


def write_history(history: Sequence[Epoch], run: Path) -> None:
    """Write the finished epochs of a run."""
    write_table(pa.Table.from_pylist(list(history), schema=HISTORY), run / HISTORY_FILE, "history")


def list_hardware(history: Sequence[Epoch]) -> list[str]:
    """Return what computed the epochs, in order, each change once."""
    parts = [part for row in history for part in row["hardware"].split(" then ")]
    return [part for number, part in enumerate(parts) if number == 0 or part != parts[number - 1]]
