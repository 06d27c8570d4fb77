"""A folder of Parquet parts that is its own ledger: what is there is what was done.

A part is written aside and renamed to a name made from its sample ids, so a retried task writes the same name.
A file of several samples is done when its last row is there, which says how many it has, and as many are.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainscale import __version__, names
from brainscale.errors import OutputError, StorageError, first_line
from brainscale.files import replacing
from brainscale.reading import unreached
from brainscale.schema import PREDICTIONS
from brainscale.sources import UNREACHABLE, Unit
from brainscale.storage import Mirror, Store, is_address

WRITTEN = pa.schema(
    [
        ("part", pa.string()),
        ("files", pa.int64()),  # finished with it
        ("rows", pa.int64()),
        ("errors", pa.int64()),
        ("problem", pa.string()),  # why it could not be written
    ]
)
"""What became of a part."""
PARTS = "part-*.parquet"
UNITS = "units"
"""Key of a part's metadata: rows of each file of several samples whose last row the part holds."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What the parts of a folder hold.

    Attributes:
        samples: file → ids of its samples that are there.
        rows: file of several samples → how many it has.
        codes: error code → rows.
        twice: ids that are there more than once.
    """

    samples: Mapping[str, set[str]]
    rows: Mapping[str, int]
    codes: Mapping[str, int]
    twice: Sequence[str]

    def has(self, unit: Unit) -> bool:
        """Whether every sample of a file is there."""
        there = self.samples.get(unit.sample_id, set())
        if unit.wanted is not None:
            return there >= set(unit.wanted)
        return len(there) == self.rows.get(unit.sample_id, 1 if unit.sample_id in there else -1)

    def of(self, units: Sequence[Unit]) -> frozenset[str]:
        """Ids that are there of some files."""
        return frozenset(i for unit in units for i in self.samples.get(unit.sample_id, ()))


def write_part(table: pa.Table, *, folder: str, identity: Mapping[str, str]) -> pa.Table:
    """Write one part.

    Args:
        table: schema PREDICTIONS, and `unit_rows`: on a file's last row, how many rows the file has.
        folder: where to, a path or an address.
        identity: metadata that every part of the folder shares.

    Returns:
        One row: part, files finished with it, rows, errors; and the problem if it could not be written, since
        an exception here would reach the driver as one of Ray's.
    """
    ids, last = table["sample_id"].to_pylist(), table["unit_rows"].to_pylist()
    units = {names.parts(i)[0]: n for i, n in zip(ids, last, strict=True) if n and (n > 1 or names.parts(i)[0] != i)}
    name = f"part-{hashlib.sha256(chr(10).join(sorted(ids)).encode()).hexdigest()[:16]}.parquet"
    described = table.select(PREDICTIONS.names).replace_schema_metadata(
        {**identity, UNITS: json.dumps(units), "brainscale": __version__}
    )
    problem = _written(described, folder, name)
    finished, errors = len(last) - last.count(None), len(table) - table["error_code"].null_count
    facts = {"part": name, "files": finished, "rows": len(table), "errors": errors, "problem": problem}
    return pa.Table.from_pylist([facts], schema=WRITTEN)


def _written(table: pa.Table, folder: str, name: str) -> str | None:
    """Why a part could not be written, if it could not."""
    silent = table.filter(pc.equal(table["error_code"], UNREACHABLE))
    if len(silent):
        return unreached(silent)
    try:
        if is_address(folder):
            sink = io.BytesIO()
            pq.write_table(table, sink, compression="zstd")
            Store(folder).put(name, sink)
        else:
            with replacing(Path(folder) / name) as aside:
                pq.write_table(table, aside, compression="zstd")
    except OSError as error:
        return os.strerror(error.errno) if error.errno else first_line(error)
    except StorageError as error:
        return str(error)
    return None


def read_ledger(folder: Mirror, identity: Mapping[str, str]) -> Ledger:
    """What the parts of a folder hold; what a killed job left half written is removed.

    Raises:
        OutputError: a part is damaged, or of another model or configuration.
    """
    for aside in folder.path.glob(".part-*.tmp"):
        aside.unlink(missing_ok=True)  # of a job that was killed; a live one keeps its folder to itself
    samples: dict[str, set[str]] = {}
    rows: dict[str, int] = {}
    codes: Counter[str] = Counter()
    twice = []
    for name in folder.listed(PARTS):
        table, metadata = _read(folder, name)
        for key, ours in identity.items():
            if (theirs := metadata.get(key)) != ours:
                raise OutputError(f"{folder} holds scores of another {key}, {theirs}, not {ours}: choose a new --out")
        rows |= json.loads(metadata.get(UNITS, "{}"))
        codes.update(code for code in table["error_code"].to_pylist() if code is not None)
        for sample_id in table["sample_id"].to_pylist():
            there = samples.setdefault(names.parts(sample_id)[0], set())
            if sample_id in there:
                twice.append(sample_id)
            there.add(sample_id)
    return Ledger(samples=samples, rows=rows, codes=dict(sorted(codes.items())), twice=twice)


def _read(folder: Mirror, name: str) -> tuple[pa.Table, dict[str, str]]:
    try:
        table = folder.table(name, ["sample_id", "error_code"])
    except (OSError, pa.ArrowInvalid) as error:
        raise OutputError(
            f"{folder}/{name} cannot be read ({error}): remove it, and its rows are scored again"
        ) from None
    return table, {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
