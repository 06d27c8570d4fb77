"""A folder of Parquet parts that is its own ledger: what is there is what was done.

A part is written aside and renamed to a name made from its sample ids, so a retried task writes the same name.
A file of several samples is done when its last row is there, which says how many it has, and as many are.
The job that began last owns the folder: what an earlier one, or what a kill left of it, has still to write is refused.
"""

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import BrainscaleError, OutputError
from brainscale.reading import sample_ids
from brainscale.reading.reader import unreachable_message
from brainscale.reading.sources import UNREACHABLE, SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.storage.local import replacing
from brainscale.storage.remote import ObjectStore, below, is_address
from brainscale.storage.tables import write_table
from brainscale.storage.workspace import Workspace
from brainscale.version import __version__

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
JOB = ".job"
"""Names the job that owns the folder; gone when the folder is complete."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What the parts of a folder hold, 16 bytes a row and 32 a file: ids stand as their digests, sorted.

    Attributes:
        samples: of the samples that are there, S16 [samples].
        files: of their files, S16 [files].
        done: of the files whose every sample is there.
        twice: of the samples that are there more than once.
        codes: error code → rows.
    """

    samples: np.ndarray
    files: np.ndarray
    done: np.ndarray
    twice: np.ndarray
    codes: Mapping[str, int]

    def missing(self, units: Sequence[SourceFile]) -> list[SourceFile]:
        """Files of which a wanted sample is not there, in their order."""
        done = _within(digests(unit.sample_id for unit in units), self.done).tolist()
        return [unit for unit, whole in zip(units, done, strict=True) if not (whole or self._has_wanted(unit))]

    def begun(self, units: Sequence[SourceFile]) -> np.ndarray:
        """Digests of the files of which some sample is there."""
        ours = digests(unit.sample_id for unit in units)
        return np.sort(ours[_within(ours, self.files)])

    def others(self, units: Sequence[SourceFile]) -> np.ndarray:
        """Digests of the files that are there and not among these."""
        strange: np.ndarray = self.files[~_within(self.files, np.sort(digests(unit.sample_id for unit in units)))]
        return strange

    def _has_wanted(self, unit: SourceFile) -> bool:
        return unit.sample_ids is not None and bool(_within(digests(unit.sample_ids), self.samples).all())


def digests(ids: Iterable[str]) -> np.ndarray:
    """Ids in 16 bytes each, S16 [ids]: among a billion, one chance in 10²⁰ that two are alike."""
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=16).digest() for i in ids), "S16")


def _within(some: np.ndarray, sorted_ones: np.ndarray) -> np.ndarray:
    """Which of some digests are among sorted ones, bool."""
    if not len(sorted_ones):
        return np.zeros(len(some), bool)
    at = np.minimum(np.searchsorted(sorted_ones, some), len(sorted_ones) - 1)
    return np.asarray(sorted_ones[at] == some)


def take_over(folder: Workspace) -> str:
    """Make a folder the property of a job that begins, without what an earlier one left half written.

    Returns:
        The job's name.

    Raises:
        OutputError: the folder cannot be written.
    """
    job = uuid.uuid4().hex
    with replacing(folder.path / JOB) as aside:
        aside.write_text(job, encoding="utf-8")
    for half in folder.path.glob(".*.tmp"):
        half.unlink(missing_ok=True)
    return job


def write_part(table: pa.Table, *, folder: str, job: str, identity: Mapping[str, str]) -> pa.Table:
    """Write one part.

    Args:
        table: schema PREDICTIONS, and `file_rows`: on a file's last row, how many rows the file has.
        folder: where to, a path or an address.
        job: that owns the folder, as `take_over` named it.
        identity: metadata that every part of the folder shares.

    Returns:
        One row: part, files finished with it, rows, errors; and the problem if it could not be written, since
        an exception here would reach the driver as one of Ray's.
    """
    ids, last = _ids(table), table["file_rows"].to_pylist()
    units = {
        sample_ids.file_of(i): n for i, n in zip(ids, last, strict=True) if n and (n > 1 or sample_ids.file_of(i) != i)
    }
    name = _name_of(ids)
    described = table.select(PREDICTIONS.names).replace_schema_metadata(
        {**identity, UNITS: json.dumps(units), "brainscale": __version__}
    )
    problem = _written(described, folder, name, job)
    finished, errors = len(last) - last.count(None), len(table) - table["error_code"].null_count
    facts = {"part": name, "files": finished, "rows": len(table), "errors": errors, "problem": problem}
    return pa.Table.from_pylist([facts], schema=WRITTEN)


def _name_of(ids: Sequence[str]) -> str:
    return f"part-{hashlib.sha256(chr(10).join(sorted(ids)).encode()).hexdigest()[:16]}.parquet"


def _written(table: pa.Table, folder: str, name: str, job: str) -> str | None:
    """Why a part could not be written, if it could not."""
    silent = table.filter(pc.equal(table["error_code"], UNREACHABLE))
    if len(silent):
        return unreachable_message(silent)
    try:
        _put(table, folder, name, job)
    except BrainscaleError as error:
        cause = error.__cause__
        return os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(error)
    return None


def _put(table: pa.Table, folder: str, name: str, job: str) -> None:
    """Write a part whole or not at all, and only for the folder's owner."""
    place = below(folder, name) if is_address(folder) else Path(folder) / name
    write_table(table, place, "predictions", check=lambda: _require_owner(job, folder))


def owns(job: str, folder: str) -> bool:
    """Whether a folder, a path or an address, is still a job's."""
    try:
        return (
            job == (ObjectStore(folder).get(JOB) if is_address(folder) else (Path(folder) / JOB).read_bytes()).decode()
        )
    except FileNotFoundError:
        return False


def _require_owner(job: str, folder: str) -> None:
    if not owns(job, folder):
        raise OutputError("another job took it over")


def read_ledger(folder: Workspace, identity: Mapping[str, str]) -> Ledger:
    """What the parts of a folder hold.

    Raises:
        OutputError: a part is damaged, or of another model or configuration.
    """
    samples, files = [digests([])], [digests([])]
    of_several: dict[str, int] = {}
    codes: Counter[str] = Counter()
    for name in folder.listed(PARTS):
        table, metadata = _read(folder, name)
        for key, ours in identity.items():
            if (theirs := metadata.get(key)) != ours:
                raise OutputError(f"{folder} holds scores of another {key}, {theirs}, not {ours}: choose a new --out")
        of_several |= json.loads(metadata.get(UNITS, "{}"))
        codes.update(code for code in table["error_code"].to_pylist() if code is not None)
        ids = _ids(table)
        samples.append(digests(ids))
        files.append(digests(map(sample_ids.file_of, ids)))
    return _summed(np.concatenate(samples), np.concatenate(files), of_several, dict(sorted(codes.items())))


def _summed(rows: np.ndarray, of: np.ndarray, of_several: Mapping[str, int], codes: Mapping[str, int]) -> Ledger:
    """A ledger of rows.

    Args:
        rows: digests of the samples.
        of: of their files, in the same order.
        of_several: file of several samples whose last one is there → how many it has.
        codes: error code → rows.
    """
    samples, first, times = np.unique(rows, return_index=True, return_counts=True)
    files, counts = np.unique(of[first], return_counts=True)
    whole = np.where(_within(files, samples), 1, -1)  # the only sample of a file has the file's id
    several = digests(of_several)
    whole[np.searchsorted(files, several)] = np.array(list(of_several.values()), whole.dtype)
    done = files[counts == whole]
    return Ledger(samples=samples, files=files, done=done, twice=samples[times > 1], codes=codes)


def ids_of(folder: Workspace, *, files: np.ndarray | None = None, samples: np.ndarray | None = None) -> Iterator[str]:
    """Ids of the rows that are there, of some files or of some samples.

    Args:
        folder: of the parts, which are read again.
        files: sorted digests.
        samples: sorted digests.
    """
    asked, key = (files, sample_ids.file_of) if files is not None else (samples, str)
    if asked is None or not len(asked):
        return
    for name in folder.listed(PARTS):
        ids = _ids(_read(folder, name)[0])
        wanted = _within(digests(map(key, ids)), asked).tolist()
        yield from (i for i, ours in zip(ids, wanted, strict=True) if ours)


def keep_once(folder: Workspace, twice: np.ndarray, job: str) -> None:
    """Put one part, with each row once, in the place of the parts that share rows.

    Killed in between, it leaves what it can be called for again.

    Args:
        folder: of the parts.
        twice: digests of the samples that are there more than once, sorted; at least one.
        job: that owns the folder.
    """
    shared = [name for name in folder.listed(PARTS) if _within(digests(_ids(_read(folder, name)[0])), twice).any()]
    tables = [folder.table(name, PREDICTIONS.names) for name in shared]
    rows = pa.concat_tables(tables)
    once = rows.take(np.sort(np.unique(digests(_ids(rows)), return_index=True)[1]))
    key = UNITS.encode()
    units = dict(pair for table in tables for pair in json.loads(table.schema.metadata[key]).items())
    name = _name_of(_ids(once))
    _put(once.replace_schema_metadata({**rows.schema.metadata, key: json.dumps(units)}), str(folder), name, job)
    for old in shared:
        if old != name:
            folder.remove(old)


def _ids(table: pa.Table) -> list[str]:
    ids: list[str] = table["sample_id"].to_pylist()
    return ids


def _read(folder: Workspace, name: str) -> tuple[pa.Table, dict[str, str]]:
    try:
        table = folder.table(name, ["sample_id", "error_code"])
    except OutputError as error:
        raise OutputError(
            f"{folder}/{name} cannot be read ({error}): remove it, and its rows are scored again"
        ) from None
    return table, {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
