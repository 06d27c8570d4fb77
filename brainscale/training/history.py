"""history.parquet: one row for each finished epoch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.schema import HISTORY
from brainscale.storage.local import replacing


def read_history(run: Path) -> Iterator[dict[str, Any]]:
    """The finished epochs of a run, none before the first."""
    path = run / "history.parquet"
    if path.exists():
        yield from pq.read_table(path).to_pylist()


def write_history(history: list[dict[str, Any]], run: Path) -> None:
    """Write history.parquet."""
    with replacing(run / "history.parquet") as aside:
        pq.write_table(pa.Table.from_pylist(history, schema=HISTORY), aside)
