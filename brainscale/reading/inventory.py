"""S3 Inventory as a source: the manifest.json of a report names files, each of which lists objects of a bucket.

The rows of a report are in no order: they are sorted in runs on disk, which are merged, so that memory does not grow
with the bucket.
"""

import hashlib
import heapq
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_plus

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import SourceError, StorageError, UsageError
from brainscale.reading.sample_ids import escape
from brainscale.storage.remote import ObjectStore, is_address, read_whole, split_address, split_options

MANIFEST_NAME = "manifest.json"
RUN_ROWS = 2**18  # sorted in memory
BATCH_ROWS = 2**13  # of each run in memory while runs are merged
COLUMNS = ("bucket", "key", "size", "last_modified_date", "is_latest", "is_delete_marker")
_ROWS = pa.schema([("path", pa.string()), ("key", pa.string()), ("nbytes", pa.int64()), ("seconds", pa.int64())])
Row = tuple[str, str, int | None, int | None]
"""Path, URI, bytes, time of the last change in ns since 1970."""


def read_manifest(source: str) -> dict[str, Any] | None:
    """Return the manifest of an S3 Inventory; None if the source is anything else."""
    if split_options(source)[0].rpartition("/")[2] != MANIFEST_NAME:
        return None
    try:
        facts = json.loads(read_whole(source))
    except (OSError, ValueError):  # a folder of this name, or another file
        return None
    except (StorageError, UsageError) as error:
        raise SourceError(str(error)) from None
    return facts if isinstance(facts, dict) and {"sourceBucket", "fileSchema"} <= facts.keys() else None


def walk_inventory(source: str, manifest: dict[str, Any]) -> Iterator[Row]:
    """Yield the objects of an inventory, in the order of ids, with paths below the deepest folder that holds them all.

    Older versions of objects, delete markers and folders are left out.

    Raises:
        SourceError: a file of the inventory is missing or altered, or it is of a format that is not read.
    """
    kind, bucket, files = (manifest.get(name) for name in ("fileFormat", "sourceBucket", "files"))
    if kind not in ("CSV", "Parquet"):
        raise SourceError(f"{source} is an inventory in the format {kind}. Let S3 write it as CSV or Parquet.")
    if not (isinstance(bucket, str) and isinstance(files, list) and all(_is_entry(entry) for entry in files)):
        raise SourceError(f"{source} is not a complete manifest of an S3 Inventory. Copy it again.")
    options = split_options(source)[1]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="brainscale-")))
        runs: list[Path] = []
        first = last = None
        for table in _cut_runs(source, manifest, scratch):
            runs.append(scratch / f"{len(runs)}.arrow")
            with pa.OSFile(str(runs[-1]), "wb") as sink, pa.ipc.new_file(sink, _ROWS) as writer:
                writer.write_table(table, max_chunksize=BATCH_ROWS)
            lowest, highest = table["path"][0].as_py(), table["path"][-1].as_py()
            first, last = min(first or lowest, lowest), max(last or highest, highest)
        shared = os.path.commonprefix([first or "", last or ""])  # noqa: RUF071 (all between them share it, too)
        start = shared.rfind("/") + 1
        rows = [_rows_of(stack.enter_context(pa.OSFile(str(run)))) for run in runs]
        for path, key, nbytes, seconds in heapq.merge(*rows, key=itemgetter(0)):
            yield path[start:], f"s3://{bucket}/{quote(key)}{options}", nbytes, seconds and seconds * 10**9


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("key", "MD5checksum"))


def _rows_of(run: pa.NativeFile) -> Iterator[tuple[str, str, int | None, int | None]]:
    reader = pa.ipc.open_file(run)
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _cut_runs(source: str, manifest: dict[str, Any], scratch: Path) -> Iterator[pa.Table]:
    """Yield the rows of all files in sorted tables of a bounded size."""
    batches: list[pa.RecordBatch] = []
    for entry in manifest["files"]:
        file = _fetch_file(source, entry, scratch)
        try:
            for batch in _read_batches(file, manifest):
                batches.append(_select_rows(batch, manifest))
                if sum(map(len, batches)) >= RUN_ROWS:
                    yield pa.Table.from_batches(batches).sort_by("path")
                    batches.clear()
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            raise SourceError(
                f"{source}: the inventory's file {entry['key']} cannot be read as {manifest['fileFormat']} "
                f"({type(error).__name__}). Copy it again."
            ) from None
        finally:
            if file.parent == scratch:
                file.unlink()
    if any(map(len, batches)):
        yield pa.Table.from_batches(batches).sort_by("path")


def _fetch_file(source: str, entry: dict[str, str], scratch: Path) -> Path:
    """Return the local path of a file of an inventory, which lies in the manifest's bucket or near a local manifest."""
    key = entry["key"]
    if is_address(source):
        base, options = split_options(source)
        file = scratch / "fetched"
        try:
            with file.open("wb") as sink:
                folder, name = split_address(f"{'/'.join(base.split('/', 3)[:3])}/{quote(key)}{options}")
                ObjectStore(folder).copy_to(name, sink)
        except FileNotFoundError:
            raise SourceError(f"{source}: its bucket holds no {key}. Copy the inventory's files there.") from None
        except StorageError as error:
            raise SourceError(str(error)) from None
    else:
        near = Path(source).absolute().parent
        places = [above / key for above in (near, *near.parents)] + [near / Path(key).name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise SourceError(f"{source}: the inventory's file {key} is not near it. Copy it into the same folder.")
        file = found
    with file.open("rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != entry["MD5checksum"]:
        raise SourceError(f"{source}: the inventory's file {key} is not the one that S3 wrote (MD5). Copy it again.")
    return file


def _read_batches(file: Path, manifest: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in batches; a CSV's columns are texts."""
    if manifest["fileFormat"] == "Parquet":
        from pyarrow import parquet

        with parquet.ParquetFile(file) as table:
            columns = [name for name in table.schema_arrow.names if name in COLUMNS]
            yield from table.iter_batches(2**16, columns=columns)
        return
    from pyarrow import csv

    names = [_snake_case(name.strip()) for name in manifest["fileSchema"].split(",")]
    columns = [name for name in names if name in COLUMNS]
    types = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), include_columns=columns)
    with file.open("rb") as opened, pa.input_stream(opened, compression="gzip") as stream:
        yield from csv.open_csv(stream, csv.ReadOptions(column_names=names), convert_options=types)


def _snake_case(name: str) -> str:
    """Return LastModifiedDate as last_modified_date, the name in Parquet."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _select_rows(batch: pa.RecordBatch, manifest: dict[str, Any]) -> pa.RecordBatch:
    """Return path, key, size and seconds of the objects that a listing would show."""
    names = batch.schema.names
    wanted = pc.equal(batch["bucket"], manifest["sourceBucket"])
    for name, hidden in (("is_latest", "false"), ("is_delete_marker", "true")):
        if name in names:
            text = pc.utf8_lower(batch[name].cast(pa.string()))
            wanted = pc.and_(wanted, pc.fill_null(pc.not_equal(text, hidden), True))
    batch = batch.filter(wanted)
    keys = batch["key"].to_pylist()
    if manifest["fileFormat"] == "CSV":
        keys = [unquote_plus(key, errors="strict") for key in keys]
    is_file = pa.array([not key.endswith("/") for key in keys], pa.bool_())
    seconds = sizes = pa.nulls(len(keys), pa.int64())
    if "size" in names:
        sizes = _without_blanks(batch["size"]).cast(pa.int64())
    if "last_modified_date" in names:
        times = _without_blanks(batch["last_modified_date"])
        times = times.cast(pa.timestamp("ms", "UTC"), safe=False)
        seconds = pc.floor(pc.divide(times.cast(pa.int64()), 1000)).cast(pa.int64())
    columns = [pa.array([escape(key) for key in keys], pa.string()), pa.array(keys, pa.string()), sizes, seconds]
    return pa.record_batch(columns, schema=_ROWS).filter(is_file)


def _without_blanks(column: pa.Array) -> pa.Array:
    """Return a column with nulls in place of empty texts."""
    if not pa.types.is_string(column.type):
        return column
    return pc.if_else(pc.equal(column, ""), None, column)
