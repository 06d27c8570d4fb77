"""Files as tables, which Ray carries to the tasks that read them, and the files of a manifest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import ManifestError
from brainscale.reading.sample_ids import file_of, split_id
from brainscale.reading.series import SliceWindow
from brainscale.reading.sources import SourceFile
from brainscale.schema import MANIFEST, WINDOW_KEY

_WINDOW_COLUMNS = ["sample_id", "window_low", "window_high", "slice_index", "window_of", "empty"]
_WINDOW = pa.struct(
    [
        ("sample_id", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("slice_index", pa.int32()),
        ("alone", pa.bool_()),
        ("empty", pa.bool_()),
    ]
)
_TUPLES = ("sample_ids", "sha256s", "patients", "members")
SOURCE_FILES = pa.schema(
    [
        MANIFEST.field("sample_id"),
        MANIFEST.field("uri"),
        pa.field("nbytes", pa.int64()),
        pa.field("modified", pa.int64()),
        pa.field("sample_ids", pa.list_(pa.string())),
        pa.field("sha256s", pa.list_(pa.string())),
        pa.field("patients", pa.list_(pa.string())),
        pa.field("members", pa.list_(pa.int64(), 2)),
        pa.field("group", pa.int64()),
        pa.field("windows", pa.list_(_WINDOW)),
    ]
)
"""Files as a table; the columns are attributes of `SourceFile`."""


def file_table(files: Sequence[SourceFile]) -> pa.Table:
    """Return files as a table of schema `SOURCE_FILES`, which Ray can carry."""
    columns = {name: [getattr(file, name) for file in files] for name in SOURCE_FILES.names}
    columns["windows"] = [windows and _window_rows(windows) for windows in columns["windows"]]
    return pa.table([pa.array(columns[column.name], column.type) for column in SOURCE_FILES], schema=SOURCE_FILES)


def _window_rows(windows: Mapping[str, SliceWindow]) -> list[dict[str, object]]:
    return [{"sample_id": sample_id, **asdict(window)} for sample_id, window in windows.items()]


def files_in(table: pa.Table) -> Iterator[SourceFile]:
    """Yield the files in a table of schema `SOURCE_FILES`."""
    columns = {name: table[name].to_pylist() for name in SOURCE_FILES.names}
    for name in _TUPLES:
        columns[name] = [values and tuple(values) for values in columns[name]]
    columns["windows"] = [windows and _windows_of(windows) for windows in columns["windows"]]
    for row in zip(*columns.values(), strict=True):
        sample_id, uri, nbytes, modified, sample_ids, sha256s, patients, members, group, windows = row
        yield SourceFile(
            sample_id=sample_id,
            uri=uri,
            nbytes=nbytes,
            modified=modified,
            sample_ids=sample_ids,
            sha256s=sha256s,
            patients=patients,
            members=members,
            group=group,
            windows=windows,
        )


def _windows_of(rows: list[dict[str, Any]]) -> dict[str, SliceWindow]:
    return {row.pop("sample_id"): SliceWindow(**row) for row in rows}


def groups_of(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Yield the files that are read together, group by group; a file without a group is one of its own."""
    for group, members in groupby(files, key=lambda file: file.group):
        if group is None:
            yield from ([file] for file in members)
        else:
            yield list(members)


def files_of_manifest(manifest: pa.Table, spec: PreprocessConfig) -> list[SourceFile]:
    """Return the files of a manifest in its order, each with the ids and, if they apply, the windows of its samples.

    The size of a file is that of the members that its samples are in, so that a job is cut as one of the files is.

    Args:
        manifest: rows of a manifest.
        spec: how slices will be windowed.

    Raises:
        ManifestError: slices of DICOM series would need other windows than those of the manifest.
    """
    rule = (manifest.schema.metadata or {}).get(WINDOW_KEY, spec.window_rule.encode()).decode()
    windows_apply = spec.window_source == "volume" and rule == spec.window_rule
    if spec.window_source == "volume" and not windows_apply and pc.any(pc.equal(manifest["format"], "DICOM")).as_py():
        raise ManifestError(
            f"the windows of the manifest's DICOM series are from {rule}, but these are wanted: {spec.window_rule}. "
            "Index the source again with this data.window_source and data.window"
        )
    windows = windows_in(manifest) if windows_apply else {}
    samples_of: dict[tuple[str, str], dict[str, tuple[str | None, str | None]]] = {}  # sha256 and patient
    sizes: dict[tuple[str, str], dict[str | None, int]] = {}  # of the members; that of an archive is not known
    columns = (manifest[name].to_pylist() for name in ("sample_id", "uri", "sha256", "patient", "nbytes"))
    for sample_id, uri, sha256, patient, nbytes in zip(*columns, strict=True):
        file_id, member, _ = split_id(sample_id)
        samples_of.setdefault((file_id, uri), {})[sample_id] = sha256, patient
        sizes.setdefault((file_id, uri), {})[member] = nbytes or 0
    files = [
        SourceFile(
            sample_id=file_id,
            uri=uri,
            nbytes=sum(sizes[file_id, uri].values()),
            sample_ids=tuple(samples),
            sha256s=tuple(sha256 for sha256, _ in samples.values()),
            patients=tuple(patient for _, patient in samples.values()),
        )
        for (file_id, uri), samples in samples_of.items()
    ]
    return with_windows(files, windows)


def windows_in(table: pa.Table) -> dict[str, SliceWindow]:
    """Return sample id → window of the rows of a manifest or of predictions that have one."""
    rows = table.filter(pc.is_valid(table["window_low"])).select(_WINDOW_COLUMNS).to_pylist()
    return {
        row["sample_id"]: SliceWindow(
            low=row["window_low"],
            high=row["window_high"],
            slice_index=row["slice_index"],
            alone=row["window_of"] == "slice",
            empty=bool(row["empty"]),
        )
        for row in rows
    }


def with_windows(files: Sequence[SourceFile], windows: Mapping[str, SliceWindow]) -> list[SourceFile]:
    """Return files with the windows of their samples."""
    by_file: dict[str, dict[str, SliceWindow]] = {}
    for sample_id, window in windows.items():
        by_file.setdefault(file_of(sample_id), {})[sample_id] = window
    return [replace(file, windows=by_file.get(file.sample_id)) for file in files]
