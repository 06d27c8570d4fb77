"""Sources → manifest: every file read once, through Ray Data, and accounted for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyarrow import csv

from brainscale.cluster.capacity import require_shared
from brainscale.config.sections import Config, DataConfig
from brainscale.dataset.splits import assign_groups
from brainscale.errors import ManifestError
from brainscale.reading import sample_ids
from brainscale.reading.parallel import read_parallel
from brainscale.reading.pseudonyms import PatientKey, pseudonym, read_key
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files
from brainscale.schema import HIDDEN, MANIFEST


def index_sources(
    sources: Sequence[str],
    config: Config,
    labels: str = "folder",
    *,
    key: PatientKey | None = None,
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
        UsageError: a file is on a path that not every node sees.
        ManifestError: the labels' file cannot be read, or does not fit.
    """
    key = key or read_key(None)
    given = None if labels == "folder" else read_labels(labels, config.data)
    request = ReadRequest(spec=config.data.preprocess, limits=config.limits, planes=False, hashes=True, key=key.secret)
    units = list_files(sources)
    require_shared((unit.uri for unit in units), config.resources.shared)
    table = read_parallel(units, partial(read_tables, request=request)).to_table()
    columns = {name: table[name] for name in table.column_names if name in MANIFEST.names}
    columns |= _labelled(table, given, labels, config.data, key)
    empty = pa.nulls(len(table), pa.null())
    full = pa.table([columns.get(f.name, empty).cast(f.type) for f in MANIFEST], schema=MANIFEST)
    grouped = assign_groups(full.sort_by("sample_id"), config.split.distance)
    return with_hidden_paths(grouped, key) if hash_paths else grouped


def _labelled(
    table: pa.Table, given: "dict[str, LabelRow] | None", file: str, data: DataConfig, key: PatientKey
) -> dict[str, pa.Array]:
    """The columns label and, where a file names patients, patient."""
    ids = table["sample_id"].to_pylist()
    if given is None:
        return {"label": pa.array([label_of(i, data) for i in ids], pa.string())}
    found = [next((given[name] for name in _names_of(i) if name in given), LabelRow()) for i in ids]
    known = {name for i in ids for name in _names_of(i)}
    if strange := sorted(set(given) - known):
        raise ManifestError(f"{file} labels '{strange[0]}', which is not in the sources")
    patients = zip(found, table["patient"].to_pylist(), strict=True)
    return {
        "label": pa.array([row.label for row in found], pa.string()),
        "patient": pa.array([pseudonym(row.patient, key.secret) or theirs for row, theirs in patients], pa.string()),
    }


def _names_of(sample_id: str) -> tuple[str, str, str]:
    """What a label's file may call a sample: itself, its file or member, the file that holds it."""
    return sample_id, sample_id.partition("#")[0], sample_ids.split_id(sample_id)[0]


def label_of(sample_id: str, data: DataConfig) -> str | None:
    """The class that the nearest folder or archive above a sample names, if any does."""
    above = sample_id.replace("!", "/").split("/")[:-1]
    tried = (data.label(name) or data.label(name.partition(".")[0]) for name in reversed(above))
    return next((label for label in tried if label is not None), None)


@dataclass(frozen=True)
class LabelRow:
    """What a label's file says of a sample."""

    label: str | None = None
    patient: str | None = None


def read_labels(path: str, data: DataConfig) -> dict[str, LabelRow]:
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
        found[row["sample_id"]] = LabelRow(label, row.get("patient") or None)
    return found


def with_hidden_paths(manifest: pa.Table, key: PatientKey) -> pa.Table:
    """The manifest without a name of a file: hashes for ids and members, and no place where the bytes are."""
    columns = {name: manifest[name].to_pylist() for name in ("sample_id", "member")}
    hashed = [
        "!".join([str(pseudonym(unit, key.secret)), *([str(pseudonym(member, key.secret))] if member else [])])
        + ("" if frame is None else f"#{frame}")
        for unit, member, frame in map(sample_ids.split_id, columns["sample_id"])
    ]
    replaced = {
        "sample_id": pa.array(hashed, pa.string()),
        "member": pa.array([pseudonym(member, key.secret) for member in columns["member"]], pa.string()),
        "uri": pa.array([HIDDEN] * len(manifest), pa.string()),
    }
    full = pa.table([replaced.get(f.name, manifest[f.name]) for f in MANIFEST], schema=MANIFEST)
    return full.sort_by("sample_id")
