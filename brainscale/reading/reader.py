"""Files → samples: the one place where bytes become planes, for indexing, training and scoring alike.

Every file, archive member, slice or frame is a sample: a plane, or an error with a stable code. Nothing raises.
Files are opened and hashed here; a child process decodes them, so that a file that crashes its decoder is a
sample with an error too.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import RERUN, SampleError, StorageError
from brainscale.reading import pairs
from brainscale.reading.acquisition import Acquisition
from brainscale.reading.archives import Member, read_members
from brainscale.reading.children import decoder_of
from brainscale.reading.look import look_into
from brainscale.reading.plan import ReadingPlan, plan_reading
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample, WaitingSlice, sample_table, window_fields
from brainscale.reading.sample_ids import join_id, split_id
from brainscale.reading.series import SliceFacts, SliceWindow
from brainscale.reading.sidecars import is_sidecar
from brainscale.reading.sources import UNREACHABLE, SourceFile, list_files, open_file
from brainscale.reading.together import read_together
from brainscale.schema import MANIFEST

BATCH_ROWS = 64
"""Rows of one table: memory does not grow with an archive or a volume."""

_WINDOW = pa.struct(
    [
        ("sample_id", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("position", pa.int32()),
        ("alone", pa.bool_()),
        ("empty", pa.bool_()),
    ]
)
SOURCE_FILES = pa.schema(
    [
        MANIFEST.field("sample_id"),
        MANIFEST.field("uri"),
        pa.field("sample_ids", pa.list_(pa.string())),
        pa.field("group", pa.int64()),
        pa.field("windows", pa.list_(_WINDOW)),
    ]
)
"""Files as a table; the columns are attributes of `SourceFile`."""


def read_samples(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], request: ReadRequest
) -> Iterator[Sample]:
    """Read every sample of one or several sources, without Ray, file after file, those of one series together.

    One member of an archive is in memory at a time. A file that cannot be read is a sample with an error.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses.
        request: what to read of each frame.

    Raises:
        SourceError: a source does not exist or holds no files; raised at once, before the first sample.
    """
    paths = [sources] if isinstance(sources, str | os.PathLike) else sources
    files = list_files([os.fspath(path) for path in paths])
    return _read_planned(files, request)


def _read_planned(files: Sequence[SourceFile], request: ReadRequest) -> Iterator[Sample]:
    for group in groups_of(plan_files(files, request).files):
        for sample, _ in _read_group(group, request):
            yield sample


def plan_files(files: Sequence[SourceFile], request: ReadRequest) -> ReadingPlan:
    """Find the files that share a series, in this process; `file_table` keeps those of one group together.

    Args:
        files: all files of the sources.
        request: what will be read of them.
    """
    facts_only = replace(request, planes=False, hashes=False)
    return plan_reading(
        files,
        request.preprocess,
        lambda some: look_into(file_table(some), request=facts_only),
        lambda some: read_tables(file_table(some), request=facts_only),
    )


def read_file(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read one file: unpack, recognise, decode and preprocess it. Its slices are windowed without those of other files.

    Args:
        file: the file, and the samples to read of it.
        request: what to read of each frame.

    Returns:
        The samples in the file, at least one; or those asked for, each with an error if the file holds it no more.
    """
    return (sample for sample, _ in _read_group([file], request))


def read_planes(files: Sequence[SourceFile], sample_ids: Sequence[str], request: ReadRequest) -> dict[str, np.ndarray]:
    """Read the planes of a few samples in this process; samples that cannot be read are left out.

    Args:
        files: files that hold the samples, and others.
        sample_ids: the samples.
        request: what to read of each frame.

    Returns:
        sample id → uint8 [image_size, image_size].
    """
    ids_by_file: dict[str, list[str]] = {}
    for sample_id in sample_ids:
        ids_by_file.setdefault(split_id(sample_id)[0], []).append(sample_id)
    return {
        sample.sample_id: sample.plane
        for file in files
        if file.sample_id in ids_by_file
        for sample in read_file(replace(file, sample_ids=tuple(ids_by_file[file.sample_id])), request)
        if sample.plane is not None
    }


def read_tables(files: pa.Table, *, request: ReadRequest, skip: frozenset[str] = frozenset()) -> Iterator[pa.Table]:
    """Read each file of a table. Slices wait for the others of their group of files; without planes, they do not.

    Args:
        files: schema `SOURCE_FILES`.
        request: what to read of each frame.
        skip: ids of samples to leave out.

    Yields:
        Tables of schema `COLUMNS`, of `BATCH_ROWS` rows at most.
    """
    batch: list[tuple[Sample, int | None]] = []
    for group in groups_of(_files_of(files)):
        for sample, file_rows in _read_group(group, request):
            if sample.sample_id not in skip:
                batch.append((sample, file_rows))
            if len(batch) == BATCH_ROWS:
                yield sample_table(batch)
                batch = []
    if batch:
        yield sample_table(batch)


def file_table(files: Sequence[SourceFile]) -> pa.Table:
    """Return files as a table of schema `SOURCE_FILES`, which Ray Data can carry."""
    rows = [{name: getattr(file, name) for name in SOURCE_FILES.names} for file in files]
    for row in rows:
        row["windows"] = row["windows"] and [{"sample_id": i, **asdict(window)} for i, window in row["windows"].items()]
    return pa.Table.from_pylist(rows, schema=SOURCE_FILES)


def _files_of(table: pa.Table) -> Iterator[SourceFile]:
    for row in table.to_pylist():
        windows = row.pop("windows")
        known = windows and {window.pop("sample_id"): SliceWindow(**window) for window in windows}
        yield SourceFile(**row, windows=known)


def groups_of(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Yield the files that are read together, group by group; a file without a group is one of its own."""
    for group, members in groupby(files, key=lambda file: file.group):
        if group is None:
            yield from ([file] for file in members)
        else:
            yield list(members)


def files_of_manifest(manifest: pa.Table) -> list[SourceFile]:
    """Return the files of a manifest in its order, each with the ids and the windows of its samples."""
    ids_by_file: dict[tuple[str, str], list[str]] = {}
    windows: dict[str, SliceWindow] = {}
    columns = ("sample_id", "uri", "window_low", "window_high", "position", "window_of", "empty")
    for sample_id, uri, low, high, position, window_of, empty in zip(
        *(manifest[name].to_pylist() for name in columns), strict=True
    ):
        ids_by_file.setdefault((split_id(sample_id)[0], uri), []).append(sample_id)
        if low is not None:
            windows[sample_id] = SliceWindow(
                low=low, high=high, position=position, alone=window_of == "slice", empty=bool(empty)
            )
    return [
        SourceFile(
            sample_id=file_id,
            uri=uri,
            sample_ids=tuple(ids),
            windows={i: windows[i] for i in ids if i in windows} or None,
        )
        for (file_id, uri), ids in ids_by_file.items()
    ]


def require_reachable(table: pa.Table) -> None:
    """Refuse rows whose object store did not answer: nobody knows what these samples are.

    Raises:
        StorageError: names the first of them.
    """
    unreachable = table.filter(pc.equal(table["error_code"], UNREACHABLE))
    if len(unreachable):
        raise StorageError(f"{unreachable_message(unreachable)}. Check the connection and the credentials, and {RERUN}")


def unreachable_message(unreachable: pa.Table) -> str:
    """Return what to say of rows whose object store did not answer."""
    first = unreachable["sample_id"][0].as_py()
    return f"the object store did not answer for {len(unreachable)} sample(s), the first of them '{first}'"


def _read_group(files: Sequence[SourceFile], request: ReadRequest) -> Iterator[tuple[Sample, int | None]]:
    """Read files together; with the last sample of a file comes the number of its samples."""
    if not request.planes:
        return (pair for file in files for pair in _count_last(_read_one(file, request)))
    return read_together(
        files,
        lambda file: _read_one(file, request),
        lambda slices: _show_kept(slices, request),
        request.preprocess.window,
    )


def _read_one(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read one file; slices whose window is not known have no plane yet."""
    read_ids = set()
    for sample in _read_members(file, request):
        read_ids.add(sample.sample_id)
        yield sample
    for sample_id in file.sample_ids or ():
        if sample_id not in read_ids:
            _, member, frame = split_id(sample_id)
            error = "its file no longer holds this sample"
            yield Sample(sample_id=sample_id, uri=file.uri, member=member, frame=frame, error_code="gone", error=error)


def _show_kept(slices: Sequence[tuple[str, SliceWindow]], request: ReadRequest) -> list[np.ndarray | None]:
    """Return the planes of slices that the decoder keeps; None for one that it no longer has."""
    side, planes = request.preprocess.image_size, []
    wanted = [[name, window.low, window.high] for name, window in slices]
    with suppress(SampleError):  # another file crashed the decoder, or this one does: reading it again says which
        for facts, plane in decoder_of(request).ask({"show": wanted}, b""):
            planes.append(None if facts["missing"] else np.frombuffer(plane, np.uint8).reshape(side, side))
    return [*planes, *[None] * (len(slices) - len(planes))]


def _read_members(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    wanted = _wanted_frames(file)
    try:
        with open_file(file.uri) as (stream, nbytes):
            if pairs.image_is_paired(file.uri, request.limits):
                yield from _read_member(file, pairs.image_member(nbytes=nbytes), wanted, request)
                return
            stream.seek(0)
            for member in pairs.join_members(read_members(stream, nbytes, request.limits)):
                whole = member if member.path else pairs.with_image(member, file.uri, request.limits)
                yield from _read_member(file, whole, wanted, request)
    except SampleError as error:
        yield Sample(sample_id=file.sample_id, uri=file.uri, error_code=error.code, error=error.text)


def _read_member(
    file: SourceFile, member: Member, wanted: dict[str, set[int | None]] | None, request: ReadRequest
) -> Iterator[Sample]:
    member_id, path = join_id(file.sample_id, member.path), "!".join(member.path) or None
    frames = None if wanted is None else wanted.get(member_id, set())
    if frames is not None and not frames:
        return
    if is_sidecar(member_id, member.data):
        nbytes, text = member.nbytes if member.data is None else len(member.data), "a file of the operating system"
        yield Sample(sample_id=member_id, uri=file.uri, member=path, nbytes=nbytes, error_code="sidecar", error=text)
        return
    if member.error:
        code, text = member.error.code, member.error.text
        yield Sample(sample_id=member_id, uri=file.uri, member=path, nbytes=member.nbytes, error_code=code, error=text)
        return
    data = member.data or b""
    nbytes, sha256 = len(data), hashlib.sha256(data).hexdigest()
    question = {"frames": None if frames is None else list(frames), "windows": _windows_of(file, member_id)}
    try:
        for facts, blob in decoder_of(request).ask(question, data):
            sample_id = join_id(file.sample_id, member.path, facts.get("frame"))
            fields = _fields_of(facts, blob, request.preprocess.image_size)
            if file.windows and (window := file.windows.get(sample_id)) and not fields.get("error_code"):
                fields |= window_fields(window)
            yield Sample(sample_id=sample_id, uri=file.uri, member=path, nbytes=nbytes, sha256=sha256, **fields)
    except SampleError as error:
        yield Sample(
            sample_id=member_id,
            uri=file.uri,
            member=path,
            nbytes=nbytes,
            sha256=sha256,
            error_code=error.code,
            error=error.text,
        )


def _windows_of(file: SourceFile, member_id: str) -> list[tuple[int | None, float, float]]:
    """Return the number and the window of each frame of a member whose window is known."""
    return [
        (split_id(sample_id)[2], window.low, window.high)
        for sample_id, window in (file.windows or {}).items()
        if sample_id.partition("#")[0] == member_id
    ]


def _fields_of(facts: dict[str, Any], blob: memoryview, side: int) -> dict[str, Any]:
    """Return the fields of a `Sample` that an answer of the decoder is about."""
    fields = dict(facts)
    if (signature := fields.pop("signature", None)) is not None:
        fields["signature"] = bytes.fromhex(signature)
    fields["acquisition"] = Acquisition(**fields.pop("acquisition", {}))
    if (window := fields.pop("window", None)) is not None:
        fields |= {"window_low": window[0], "window_high": window[1]}
        fields["window_of"] = "slice" if fields.pop("alone") else "volume"
    if (slice_facts := fields.pop("slice", None)) is not None:
        geometry = slice_facts["geometry"]
        known = SliceFacts(**{**slice_facts, "geometry": geometry and tuple(geometry)})
        fields["waiting"] = WaitingSlice(facts=known, histogram=bytes(blob), kept=fields.pop("kept", None))
    elif len(blob):
        fields["plane"] = np.frombuffer(blob, np.uint8).reshape(side, side)
    return fields


def _wanted_frames(file: SourceFile) -> dict[str, set[int | None]] | None:
    """Return the numbers of the frames to read of each member, by the member's id; None for all of all."""
    if file.sample_ids is None:
        return None
    wanted: dict[str, set[int | None]] = {}
    for sample_id in file.sample_ids:
        wanted.setdefault(sample_id.partition("#")[0], set()).add(split_id(sample_id)[2])
    return wanted


def _count_last(samples: Iterable[Sample]) -> Iterator[tuple[Sample, int | None]]:
    """Pass on samples, the last with their number: whoever has it and as many rows has the whole file."""
    count, previous = 0, None
    for sample in samples:
        if previous is not None:
            yield previous, None
        count, previous = count + 1, sample
    if previous is not None:
        yield previous, count
