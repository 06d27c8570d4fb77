"""Files → samples: the one place where bytes become planes, for indexing, training and scoring alike.

Every file, archive member, slice or frame is a sample: a plane, or an error with a stable code. Nothing raises.
Files are opened and hashed here; a child process decodes them, so that a file that crashes its decoder is a
sample with an error too.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import RERUN, SampleError, StorageError
from brainscale.reading import pairs
from brainscale.reading.acquisition import Acquisition
from brainscale.reading.archives import Member, read_members
from brainscale.reading.children import decoder_of
from brainscale.reading.file_tables import file_table, files_in, groups_of
from brainscale.reading.look import look_into
from brainscale.reading.plan import ReadingPlan, plan_reading
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample, WaitingSlice, sample_table, window_fields
from brainscale.reading.sample_ids import join_id, split_id
from brainscale.reading.series import SliceFacts, SliceWindow
from brainscale.reading.sidecars import is_sidecar
from brainscale.reading.sources import UNREACHABLE, SourceFile, list_files, open_file
from brainscale.reading.together import read_together

BATCH_ROWS = 64
"""Rows of one table: memory does not grow with an archive or a volume."""


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
        lambda some: look_into(file_table(some), request=request),
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
    for group in groups_of(files_in(files)):
        for sample, file_rows in _read_group(group, request):
            if sample.sample_id not in skip:
                batch.append((sample, file_rows))
            if len(batch) == BATCH_ROWS:
                yield sample_table(batch)
                batch = []
    if batch:
        yield sample_table(batch)


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
    frames = _Frames(wanted=_wanted_frames(file), windows=_windows_by_member(file))
    try:
        with open_file(file.uri) as (stream, nbytes):
            if pairs.image_is_paired(file.uri, request.limits):
                yield from _read_member(file, pairs.image_member(nbytes=nbytes), frames, request)
                return
            stream.seek(0)
            for member in pairs.join_members(read_members(stream, nbytes, request.limits)):
                whole = member if member.path else pairs.with_image(member, file.uri, request.limits)
                yield from _read_member(file, whole, frames, request)
    except SampleError as error:
        yield Sample(sample_id=file.sample_id, uri=file.uri, error_code=error.code, error=error.text)


class _Frames(NamedTuple):
    """What to read of a file, by the id of the member.

    Attributes:
        wanted: numbers of the frames to read; None for all of all members.
        windows: number and window of the frames of which it is known.
    """

    wanted: dict[str, set[int | None]] | None
    windows: dict[str, list[tuple[int | None, float, float]]]


def _read_member(file: SourceFile, member: Member, of: _Frames, request: ReadRequest) -> Iterator[Sample]:
    member_id, path = join_id(file.sample_id, member.path), "!".join(member.path) or None
    frames = None if of.wanted is None else of.wanted.get(member_id, set())
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
    question = {
        "frames": None if frames is None else list(frames),
        "windows": of.windows.get(member_id, []),
        "planes": request.planes,
        "hashes": request.hashes,
    }
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


def _windows_by_member(file: SourceFile) -> dict[str, list[tuple[int | None, float, float]]]:
    """Return the number and the window of each frame of which it is known, by the member's id."""
    windows: dict[str, list[tuple[int | None, float, float]]] = {}
    for sample_id, window in (file.windows or {}).items():
        windows.setdefault(sample_id.partition("#")[0], []).append((split_id(sample_id)[2], window.low, window.high))
    return windows


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
