"""The parts of a scores folder: Parquet files with predictions, written only by the job that owns the folder.

The name of a part is made from its sample ids, so a task that Ray repeats writes the same file again. The job that
started last owns the folder. Anything that an earlier job still tries to write is refused.
"""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import BrainscaleError, OutputError
from brainscale.reading import sample_ids
from brainscale.reading.reader import unreachable_message
from brainscale.reading.sources import UNREACHABLE
from brainscale.schema import PREDICTIONS
from brainscale.storage.local import replacing
from brainscale.storage.remote import ObjectStore, is_address, join_address
from brainscale.storage.tables import write_table
from brainscale.storage.workspace import Workspace
from brainscale.version import __version__

PART_FILES = "part-*.parquet"
OWNER_FILE = ".job"
"""Contains the name of the job that owns the folder; deleted when the folder is complete."""
FILE_ROWS_KEY = "units"
"""Metadata key of a part: file → number of rows, for each file with several samples whose last row is in the part."""
TAKEN_OVER = "another job took it over"
"""Problem of a part that a job could not write because it no longer owns the folder."""
WRITTEN_PART = pa.schema(
    [
        ("part", pa.string()),
        ("files", pa.int64()),
        ("rows", pa.int64()),
        ("errors", pa.int64()),
        ("problem", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A part that was written, or why it could not be.

    Attributes:
        part: file name.
        files: number of files that are complete with this part.
        rows: number of rows.
        errors: number of samples with an error.
        problem: why the part could not be written; None if it was.
    """

    part: str
    files: int
    rows: int
    errors: int
    problem: str | None = None

    def to_table(self) -> pa.Table:
        """Return a table of one row, as Ray passes it on."""
        return pa.Table.from_pylist([asdict(self)], schema=WRITTEN_PART)


WritePart = Callable[[pa.Table], pa.Table]
"""Writes a table of predictions as one part and returns a table of schema `WRITTEN_PART`."""


def write_part(table: pa.Table, *, folder: str, job: str, identity: Mapping[str, str]) -> pa.Table:
    """Write one part; runs in a Ray task.

    Args:
        table: rows of schema PREDICTIONS with the column `file_rows`: on the last row of a file, its number of rows.
        folder: path or address of the scores folder.
        job: name of the job that owns the folder, from `claim_folder`.
        identity: metadata that all parts of the folder share.

    Returns:
        The `WrittenPart` as a table. It contains the problem if the part could not be written, because Ray would wrap
        an exception.
    """
    ids, file_rows = list_sample_ids(table), table["file_rows"].to_pylist()
    rows_of_files = {
        sample_ids.file_of(i): n
        for i, n in zip(ids, file_rows, strict=True)
        if n and (n > 1 or sample_ids.file_of(i) != i)
    }
    name = name_part(ids)
    part = table.select(PREDICTIONS.names).replace_schema_metadata(
        {**identity, FILE_ROWS_KEY: json.dumps(rows_of_files), "brainscale": __version__}
    )
    return WrittenPart(
        part=name,
        files=len(file_rows) - file_rows.count(None),
        rows=len(table),
        errors=len(table) - table["error_code"].null_count,
        problem=_try_to_save(part, folder, name, job),
    ).to_table()


def name_part(ids: Sequence[str]) -> str:
    """Return the file name of the part with these samples."""
    return f"part-{hashlib.sha256(chr(10).join(sorted(ids)).encode()).hexdigest()[:16]}.parquet"


def _try_to_save(part: pa.Table, folder: str, name: str, job: str) -> str | None:
    """Save a part; return why that failed, or None."""
    unreachable = part.filter(pc.equal(part["error_code"], UNREACHABLE))
    if len(unreachable):
        return unreachable_message(unreachable)
    try:
        save_part(part, folder, name, job)
    except BrainscaleError as error:
        cause = error.__cause__
        return os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(error)
    return None


def save_part(part: pa.Table, folder: str, name: str, job: str) -> None:
    """Save a part under a name, if the job still owns the folder; the file appears complete or not at all.

    Raises:
        OutputError: the file cannot be written, the folder is gone, or another job owns it.
    """
    if not is_address(folder) and not Path(folder).is_dir():  # write_table would create it again
        raise OutputError(os.strerror(errno.ENOENT))
    file = join_address(folder, name) if is_address(folder) else Path(folder) / name
    write_table(part, file, "predictions", check=lambda: _require_owner(job, folder))


def claim_folder(folder: Workspace) -> str:
    """Make a new job the owner of a scores folder, and delete the incomplete files of an earlier one.

    Returns:
        The name of the new job.

    Raises:
        OutputError: the folder cannot be written.
    """
    job = uuid.uuid4().hex
    with replacing(folder.path / OWNER_FILE) as temporary:
        temporary.write_text(job, encoding="utf-8")
    for incomplete in folder.path.glob(".*.tmp"):
        incomplete.unlink(missing_ok=True)
    return job


def owns_folder(job: str, folder: str) -> bool:
    """Return whether a job still owns a scores folder, given by path or address."""
    try:
        owner = ObjectStore(folder).get(OWNER_FILE) if is_address(folder) else (Path(folder) / OWNER_FILE).read_bytes()
    except FileNotFoundError:
        return False
    return owner.decode() == job


def _require_owner(job: str, folder: str) -> None:
    if not owns_folder(job, folder):
        raise OutputError(TAKEN_OVER)


def read_part(folder: Workspace, name: str) -> tuple[pa.Table, dict[str, str]]:
    """Return the columns sample_id and error_code of a part, and its metadata.

    Raises:
        OutputError: the part is damaged.
    """
    try:
        table = folder.table(name, ["sample_id", "error_code"])
    except OutputError as error:
        raise OutputError(
            f"{folder}/{name} cannot be read ({error}): delete it, and its rows will be scored again"
        ) from None
    return table, {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}


def read_predictions(folder: Workspace, columns: Sequence[str]) -> pa.Table:
    """Return the given columns of all parts of a folder."""
    return pa.concat_tables(folder.table(name, columns) for name in folder.listed(PART_FILES))


def list_sample_ids(table: pa.Table) -> list[str]:
    """Return the sample ids of a table."""
    ids: list[str] = table["sample_id"].to_pylist()
    return ids
