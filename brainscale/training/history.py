"""history.parquet: one row for each finished epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from brainscale.schema import HISTORY
from brainscale.storage.tables import read_table, write_table

HISTORY_FILE = "history.parquet"


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return the finished epochs of a run, rows of schema HISTORY; none before the first has ended."""
    try:
        rows: list[dict[str, Any]] = read_table(run / HISTORY_FILE, "history").to_pylist()
    except FileNotFoundError:
        return []
    return rows


def write_history(history: Sequence[Mapping[str, Any]], run: Path) -> None:
    """Write the finished epochs of a run."""
    write_table(pa.Table.from_pylist(list(history), schema=HISTORY), run / HISTORY_FILE, "history")
