"""Sources → manifest: every file read once, through Ray Data, and accounted for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from brainscale import names
from brainscale.config import Config, DataConfig, fingerprint
from brainscale.decoding import Wish, keyed
from brainscale.errors import ManifestError, OutputError
from brainscale.files import replacing
from brainscale.keys import Key, read_key
from brainscale.pipeline import over_units
from brainscale.reading import read_tables
from brainscale.schema import HIDDEN, MANIFEST
from brainscale.sources import listing
from brainscale.splits import groups


def index(
    sources: Sequence[str],
    config: Config,
    labels: str = "folder",
    *,
    key: Key | None = None,
    hash_paths: bool = False,
) -> pa.Table:
    """Read every file of the sources and say what is in it.

    Args:
        sources: folders, files, globs, @lists or addresses.
        config: class names of folders, limits, windows, and the distance of copies.
        labels: `folder`, or a CSV file with columns sample_id, label and perhaps patient.
        key: of the hashes of patients.
        hash_paths: whether the names of files and members become hashes too.

    Returns:
        A manifest, sorted by sample_id, labelled and grouped.

    Raises:
        SourceError: a source does not exist or holds no file.
        ManifestError: the labels' file cannot be read, or does not fit.
    """
    key = key or read_key(None)
    given = None if labels == "folder" else read_labels(labels, config.data)
    wish = Wish(spec=config.data.preprocess, limits=config.limits, planes=False, hashes=True, key=key.secret)
    table = over_units(listing(sources), partial(read_tables, wish=wish)).to_table()
    columns = {name: table[name] for name in table.column_names if name in MANIFEST.names}
    columns |= _labelled(table, given, labels, config.data, key)
    empty = pa.nulls(len(table), pa.null())
    full = pa.table([columns.get(f.name, empty).cast(f.type) for f in MANIFEST], schema=MANIFEST)
    grouped = groups(full.sort_by("sample_id"), config.split.distance)
    return with_hidden_paths(grouped, key) if hash_paths else grouped


def _labelled(
    table: pa.Table, given: "dict[str, Given] | None", file: str, data: DataConfig, key: Key
) -> dict[str, pa.Array]:
    """The columns label and, where a file names patients, patient."""
    ids = table["sample_id"].to_pylist()
    if given is None:
        return {"label": pa.array([label_of(i, data) for i in ids], pa.string())}
    found = [next((given[name] for name in _names_of(i) if name in given), Given()) for i in ids]
    known = {name for i in ids for name in _names_of(i)}
    if strange := sorted(set(given) - known):
        raise ManifestError(f"{file} labels '{strange[0]}', which is not in the sources")
    patients = zip(found, table["patient"].to_pylist(), strict=True)
    return {
        "label": pa.array([row.label for row in found], pa.string()),
        "patient": pa.array([keyed(row.patient, key.secret) or theirs for row, theirs in patients], pa.string()),
    }


def _names_of(sample_id: str) -> tuple[str, str, str]:
    """What a label's file may call a sample: itself, its file or member, the file that holds it."""
    return sample_id, sample_id.partition("#")[0], names.parts(sample_id)[0]


def label_of(sample_id: str, data: DataConfig) -> str | None:
    """The class that the nearest folder or archive above a sample names, if any does."""
    above = sample_id.replace("!", "/").split("/")[:-1]
    tried = (data.label(name) or data.label(name.partition(".")[0]) for name in reversed(above))
    return next((label for label in tried if label is not None), None)


@dataclass(frozen=True)
class Given:
    """What a label's file says of a sample."""

    label: str | None = None
    patient: str | None = None


def read_labels(path: str, data: DataConfig) -> dict[str, Given]:
    """sample_id → class and patient from a CSV file; a label may be a class or a folder name that means one.

    Raises:
        ManifestError: no such file, no such columns, or a label that means no class.
    """
    wanted = ("sample_id", "label", "patient")
    try:
        options = csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()))
        table = csv.read_csv(path, convert_options=options)
        rows = table.select([name for name in wanted if name in table.column_names]).to_pylist()
        missing = [name for name in wanted[:2] if name not in table.column_names]
    except (OSError, pa.ArrowInvalid) as error:
        raise ManifestError(f"{path} is no CSV file with columns sample_id and label: {error}") from None
    if missing:
        raise ManifestError(f"{path} has no column {missing[0]}: it needs sample_id and label, and may have patient")
    found = {}
    for row in rows:
        label = data.label(row["label"] or "")
        if label is None:
            known = ", ".join(data.classes)
            raise ManifestError(f"{path}: label '{row['label']}' of '{row['sample_id']}' is no class: known: {known}")
        found[row["sample_id"]] = Given(label, row.get("patient") or None)
    return found


def with_hidden_paths(manifest: pa.Table, key: Key) -> pa.Table:
    """The manifest without a name of a file: hashes for ids and members, and no place where the bytes are."""
    columns = {name: manifest[name].to_pylist() for name in ("sample_id", "member")}
    hashed = [
        "!".join([str(keyed(unit, key.secret)), *([str(keyed(member, key.secret))] if member else [])])
        + ("" if frame is None else f"#{frame}")
        for unit, member, frame in map(names.parts, columns["sample_id"])
    ]
    replaced = {
        "sample_id": pa.array(hashed, pa.string()),
        "member": pa.array([keyed(member, key.secret) for member in columns["member"]], pa.string()),
        "uri": pa.array([HIDDEN] * len(manifest), pa.string()),
    }
    full = pa.table([replaced.get(f.name, manifest[f.name]) for f in MANIFEST], schema=MANIFEST)
    return full.sort_by("sample_id")


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
        codes = ", ".join(f"{code} {count}" for code, count in counts(table, "error_code").items())
        first = table.slice(0, 1).to_pylist()[0]
        raise ManifestError(
            f"none of the {len(table)} files of {source} is a readable image ({codes}); "
            f"'{first['sample_id']}', for one: {first['error']}"
        )


def require_places(table: pa.Table, source: str) -> None:
    """Refuse a manifest that does not say where its samples are.

    Raises:
        ManifestError: its paths are hashed.
    """
    if pc.any(pc.equal(table["uri"], HIDDEN)).as_py():
        raise ManifestError(f"{source} does not say where its images are: index again without --hash-paths")


def write_manifest(table: pa.Table, path: Path) -> None:
    """Write a manifest, or any other table, that appears whole or not at all.

    Raises:
        OutputError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside:
            pq.write_table(table, aside, compression="zstd")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def manifest_fingerprint(table: pa.Table) -> str:
    """sha256 over what training and evaluation depend on: ids, contents, labels and splits, but no paths."""
    columns = ("sample_id", "sha256", "label", "split", "error_code")
    return fingerprint([table[name].to_pylist() for name in columns])


def counts(table: pa.Table, column: str, *, drop_null: bool = False) -> dict[str, int]:
    """How often each value of a column stands in a table, sorted by value."""
    values = (v for v in table[column].to_pylist() if not (drop_null and v is None))
    return dict(sorted(Counter("none" if v is None else str(v) for v in values).items()))
