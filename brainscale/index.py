"""Sources → manifest: every file read once, through Ray Data, and accounted for."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from brainscale.config import DataConfig, fingerprint
from brainscale.errors import ManifestError, OutputError
from brainscale.pipeline import over_units
from brainscale.reading import read_table
from brainscale.schema import MANIFEST
from brainscale.sources import listing
from brainscale.splits import groups


def index(sources: Sequence[str], data: DataConfig, labels: str = "folder") -> pa.Table:
    """Read every file of the sources and say what it is.

    Args:
        sources: folders, files, globs or addresses.
        data: preprocessing (so that what would fail later fails here) and class names of folders.
        labels: `folder`, or a CSV file with columns sample_id and label.

    Returns:
        A manifest, sorted by sample_id, labelled, grouped by content.

    Raises:
        SourceError: a source does not exist or holds no file.
        ManifestError: the labels' file cannot be read, or does not fit.
    """
    given = None if labels == "folder" else read_labels(labels, data)
    read = partial(read_table, spec=data.preprocess, planes=False)
    table = over_units(listing(sources), read).to_table()
    ids = table["sample_id"].to_pylist()
    if given is not None and (strange := sorted(set(given) - set(ids))):
        raise ManifestError(f"{labels} labels '{strange[0]}', which is not in the sources")
    named = [label_of(i, data) if given is None else given.get(i) for i in ids]
    columns = {name: table[name] for name in table.column_names if name in MANIFEST.names}
    columns["label"] = pa.array(named, pa.string())
    empty = pa.nulls(len(table), pa.null())
    full = pa.table(
        [columns.get(f.name, empty).cast(f.type) for f in MANIFEST],
        schema=MANIFEST,
    )
    return groups(full.sort_by("sample_id"))


def label_of(sample_id: str, data: DataConfig) -> str | None:
    """The class that the nearest folder above a sample names, if any does."""
    folders = sample_id.split("/")[:-1]
    return next((label for name in reversed(folders) if (label := data.label(name))), None)


def read_labels(path: str, data: DataConfig) -> dict[str, str]:
    """sample_id → class from a CSV file; a label may be a class or a folder name that means one.

    Raises:
        ManifestError: no such file, no such columns, or a label that means no class.
    """
    try:
        text = pa.schema([("sample_id", pa.string()), ("label", pa.string())])
        options = csv.ConvertOptions(column_types=text, include_columns=text.names)
        rows = csv.read_csv(path, convert_options=options).to_pylist()
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ManifestError(f"{path} is no CSV file with columns sample_id and label: {error}") from None
    classes = {row["sample_id"]: data.label(row["label"]) for row in rows}
    for row in rows:
        if classes[row["sample_id"]] is None:
            known = ", ".join(data.classes)
            raise ManifestError(f"{path}: label '{row['label']}' of '{row['sample_id']}' is no class: known: {known}")
    return {sample_id: label for sample_id, label in classes.items() if label is not None}


def is_manifest(path: str) -> bool:
    """Whether a `--data` argument names a manifest rather than a source."""
    return path.endswith(".parquet")


def read_manifest(path: str | Path) -> pa.Table:
    """Read a manifest and hold it to the schema.

    Raises:
        ManifestError: no such file, not Parquet, or not a manifest.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ManifestError(f"no manifest at {path}: make one with `brainscale index SOURCE --out M.parquet`") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise ManifestError(f"{path} is not a Parquet file: {error}") from None
    missing = [name for name in MANIFEST.names if name not in table.column_names]
    if missing:
        raise ManifestError(f"{path} is no manifest: it has no column {', '.join(missing)}")
    table = table.select(MANIFEST.names).cast(MANIFEST)
    twice = [i for i, n in Counter(table["sample_id"].to_pylist()).items() if n > 1]
    if twice:
        raise ManifestError(f"{path} names the sample '{twice[0]}' more than once: sample ids must be unique")
    return table.sort_by("sample_id")


def require_readable(table: pa.Table, source: str) -> None:
    """Refuse a manifest in which every row is an error.

    Raises:
        ManifestError: names the count of each kind of error, and the first sample.
    """
    if table["error_code"].null_count == 0:
        codes = ", ".join(f"{code} {count}" for code, count in _counts(table, "error_code").items())
        first = table.slice(0, 1).to_pylist()[0]
        raise ManifestError(
            f"none of the {len(table)} files of {source} is a readable image ({codes}); "
            f"'{first['sample_id']}', for one: {first['error']}"
        )


def write_manifest(table: pa.Table, path: Path) -> None:
    """Write a manifest aside and rename it into place.

    Raises:
        OutputError: the place cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, aside, compression="zstd")
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def manifest_fingerprint(table: pa.Table) -> str:
    """sha256 over what training and evaluation depend on: ids, contents, labels and splits, but no paths."""
    names = ("sample_id", "sha256", "label", "split", "error_code")
    return fingerprint([table[name].to_pylist() for name in names])


def summary(table: pa.Table) -> dict[str, object]:
    """Counts of a manifest: files, readable samples, labels, formats, errors by code, identical copies."""
    readable = table.filter(pc.is_null(table["error_code"]))
    return {
        "files": len(set(table["uri"].to_pylist())),
        "samples": len(readable),
        "labels": _counts(readable, "label"),
        "formats": _counts(readable, "format"),
        "errors": _counts(table, "error_code", drop_null=True),
        "groups": pc.count_distinct(readable["group"]).as_py(),
        "byte_identical_copies": len(readable) - pc.count_distinct(readable["sha256"]).as_py(),
        "splits": _counts(readable, "split", drop_null=True),
    }


def _counts(table: pa.Table, column: str, *, drop_null: bool = False) -> dict[str, int]:
    values = (v for v in table[column].to_pylist() if not (drop_null and v is None))
    return dict(sorted(Counter("none" if v is None else str(v) for v in values).items()))
