"""Files → samples: the one place where bytes become planes, for indexing, training and scoring alike.

Every file, archive member, slice or frame is a sample: a plane, or an error with a stable code. Nothing raises.
Files are only opened here: a child process unpacks, hashes and decodes them, so that one that crashes it is a sample
with an error too. What the child answers is checked.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import RERUN, SampleError, StorageError
from brainscale.reading.answers import FACTS, check_facts, fields_of, is_path, nonsense, plane_of
from brainscale.reading.children import decoder_of
from brainscale.reading.confinement import Confinement
from brainscale.reading.file_tables import files_in, groups_of
from brainscale.reading.look import look_into
from brainscale.reading.partners import open_partners, suffix_of_file
from brainscale.reading.plan import ReadingPlan, plan_reading
from brainscale.reading.portions import cut_archives
from brainscale.reading.pseudonyms import hide_id, pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import Sample, sample_table, window_fields
from brainscale.reading.sample_ids import join_id, split_id
from brainscale.reading.sandbox import Sandbox
from brainscale.reading.series import SliceWindow
from brainscale.reading.small_jobs import read_here
from brainscale.reading.sources import UNREACHABLE, SourceFile, list_files, open_file
from brainscale.reading.spawning import DECODER
from brainscale.reading.together import read_together
from brainscale.schema import HIDDEN

BATCH_ROWS = 64
"""Rows of one table: memory does not grow with an archive or a volume."""
MAX_CRASHES = 16
"""Members of one archive that may end the decoder: each costs a new one, which has to find its place in the archive."""


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
        yield from _read_group(group, request)


def plan_files(files: Sequence[SourceFile], request: ReadRequest, *, name_series: bool = False) -> ReadingPlan:
    """Find the files that share a series, in this process; `file_table` keeps those of one group together.

    Args:
        files: all files of the sources.
        request: what will be read of them.
        name_series: whether the names of series are needed where their windows are not.
    """
    facts_only = request.facts_only()
    return plan_reading(
        cut_archives(files, request, read_here),
        request.preprocess,
        lambda some: read_here(some, partial(look_into, request=request)),
        lambda some: read_here(some, partial(read_tables, request=facts_only)),
        name_of=namer_of(request),
        name_series=name_series,
    )


def namer_of(request: ReadRequest) -> Callable[[str], str]:
    """Return sample id → what tables and messages call the sample."""
    return partial(hide_id, key=request.key) if request.hash_paths else str


def read_file(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read one file: unpack, recognise, decode and preprocess it. Its slices are windowed without those of other files.

    Args:
        file: the file, and the samples to read of it.
        request: what to read of each frame.

    Returns:
        The samples in the file, at least one; or those asked for, each with an error if the file holds it no more.
    """
    return _read_group([file], request)


def read_planes(
    files: Iterable[SourceFile],
    sample_ids: Sequence[str],
    request: ReadRequest,
    windows: Mapping[str, SliceWindow] | None = None,
) -> dict[str, np.ndarray]:
    """Read the planes of a few samples in this process; samples that cannot be read are left out.

    Args:
        files: files that hold the samples, and others.
        sample_ids: the samples, by the names that the request gives them.
        request: what to read of each frame.
        windows: sample id, named the same way → window; by default those of the files.

    Returns:
        sample id, named the same way → uint8 [image_size, image_size].
    """
    name_of, plain = namer_of(request), replace(request, hash_paths=False)
    ids_by_file: dict[str, list[str]] = {}
    for sample_id in sample_ids:
        ids_by_file.setdefault(split_id(sample_id)[0], []).append(sample_id)
    planes: dict[str, np.ndarray] = {}
    for file in files:
        if ids := ids_by_file.get(name_of(file.sample_id)):
            names = _find_names(file, ids, request)
            known = file.windows if windows is None else {i: windows[n] for i, n in names.items() if n in windows}
            read = read_file(replace(file, sample_ids=tuple(names), windows=known), plain)
            planes |= {names[sample.sample_id]: sample.plane for sample in read if sample.plane is not None}
    return planes


def _find_names(file: SourceFile, names: Sequence[str], request: ReadRequest) -> dict[str, str]:
    """Return sample id → name of those samples of a file that have one of the names."""
    if not request.hash_paths:
        return {name: name for name in names}
    name_of = namer_of(request)
    hidden = name_of(file.sample_id)
    known = {file.sample_id + name.removeprefix(hidden): name for name in names if split_id(name)[1] is None}
    if len(known) == len(names):
        return known
    ids = file.sample_ids or (sample.sample_id for sample in read_file(file, request.facts_only()))
    wanted = set(names)
    return {sample_id: name for sample_id in ids if (name := name_of(sample_id)) in wanted}


def read_tables(files: pa.Table, *, request: ReadRequest) -> Iterator[pa.Table]:
    """Read each file of a table. Slices wait for the others of their group of files; without planes, they do not.

    Args:
        files: schema `SOURCE_FILES`.
        request: what to read of each frame.

    Yields:
        Tables of schema `COLUMNS`, of `BATCH_ROWS` rows at most.
    """
    batch: list[Sample] = []
    for group in groups_of(files_in(files)):
        for sample in _read_group(group, request):
            batch.append(sample)
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
        first = unreachable["sample_id"][0].as_py()
        raise StorageError(
            f"the object store did not answer for {len(unreachable)} sample(s), the first of them '{first}'. Check the "
            f"connection and the credentials, and {RERUN}"
        )


def check_confinement() -> Confinement:
    """Return what the processes that read untrusted files can no longer do on this machine.

    Raises:
        SampleError: `decoder_crashed`: such a process does not start, or cannot load the library of a format.
    """
    request = ReadRequest(preprocess=PreprocessConfig())
    with closing(Sandbox(DECODER, request.to_json(), request.limits.seconds)) as sandbox:
        confinement = sandbox.start()
        for facts, _ in sandbox.ask({"libraries": True}, io.BytesIO()):
            raise SampleError("decoder_crashed", facts["error"])
        return confinement


def _read_group(files: Sequence[SourceFile], request: ReadRequest) -> Iterator[Sample]:
    """Read files together."""
    if request.planes:
        read = read_together(
            files,
            lambda file: _read_wanted(file, request),
            lambda slices: _show_kept(slices, request),
            request.preprocess.window,
        )
    else:
        read = (sample for file in files for sample in _read_wanted(file, request))
    if not request.hash_paths:
        return read
    return (_hide(sample, request.key) for sample in read)


def _read_wanted(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read one file; slices whose window is not known have no plane yet. What is missing has an error."""
    missing = dict.fromkeys(file.sample_ids or ())
    error = SampleError("gone", "its file no longer holds this sample")
    try:
        for sample in _read_members(file, request):
            missing.pop(sample.sample_id, None)
            yield sample
    except SampleError as failure:
        error = failure
        missing = missing if file.sample_ids else {file.key: None}
    for sample_id in missing:
        _, member, frame = split_id(sample_id)
        sample = Sample(sample_id=sample_id, uri=file.uri, member=member, frame=frame)
        yield replace(sample, error_code=error.code, error=error.text)


def _show_kept(slices: Sequence[tuple[str, SliceWindow]], request: ReadRequest) -> list[np.ndarray | None]:
    """Return the planes of slices that the decoder keeps; None for one that it no longer has."""
    planes: list[np.ndarray | None] = []
    wanted = [[name, window.low, window.high] for name, window in slices]
    with suppress(SampleError):  # another file crashed the decoder, or this one does: reading it again says which
        for facts, plane in decoder_of(request).ask({"show": wanted}, io.BytesIO()):
            if len(planes) == len(wanted) or facts not in ({"missing": True}, {"missing": False}):
                raise nonsense()
            planes.append(None if facts["missing"] else plane_of(plane, request.preprocess.image_size))
    return [*planes, *[None] * (len(slices) - len(planes))]


def _read_members(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read the members of a file, each of which may end the decoder.

    Raises:
        SampleError: the file cannot be opened or unpacked, or ended too many decoders.
    """
    asked: dict[str, Any] = {
        "file": file.sample_id,
        "members": file.members,
        "wanted": _wanted(file),
        "windows": _windows(file),
        "skip": 0,
    }
    asked |= {"suffix": suffix_of_file(file.uri), "planes": request.planes, "hashes": request.hashes}
    with open_file(file.uri) as (stream, _), open_partners(file.uri) as partners:
        for crashes in range(1, MAX_CRASHES + 1):
            member = sample = None
            try:
                for facts, blob in decoder_of(request).ask(asked, stream, *partners):
                    if "path" in facts:
                        member, asked["skip"] = _describe_member(file, facts), facts["member"] + 1
                    elif member is not None:
                        sample = _make_sample(file, member, fields_of(facts, blob, request.preprocess.image_size))
                        yield sample
            except SampleError as error:
                if member is None:
                    raise
                if sample is None or sample.sample_id != member.sample_id:  # else it was complete
                    yield replace(member, error_code=error.code, error=error.text)
                if crashes == MAX_CRASHES:
                    text = f"{crashes} members of the file ended the decoder; the rest is not read"
                    raise SampleError(error.code, text) from None
                if member.member is not None:
                    continue
            return


def _wanted(file: SourceFile) -> dict[str, list[int | None]] | None:
    """Return the numbers of the frames to read of each member, as `join_id("", path)`; None for all of all."""
    if file.sample_ids is None:
        return None
    wanted: dict[str, list[int | None]] = {}
    for name, frame in map(_place_in_file, file.sample_ids):
        wanted.setdefault(name, []).append(frame)
    return wanted


def _windows(file: SourceFile) -> dict[str, list[tuple[int | None, float, float]]]:
    """Return the number and the window of each frame of which it is known, by member as `_wanted` does."""
    windows: dict[str, list[tuple[int | None, float, float]]] = {}
    for sample_id, window in (file.windows or {}).items():
        name, frame = _place_in_file(sample_id)
        windows.setdefault(name, []).append((frame, window.low, window.high))
    return windows


def _place_in_file(sample_id: str) -> tuple[str, int | None]:
    _, member, frame = split_id(sample_id)
    return "" if member is None else f"!{member}", frame


def _describe_member(file: SourceFile, facts: Mapping[str, Any]) -> Sample:
    """Return what the samples of a member have in common."""
    path, number = facts["path"], facts.get("member")
    if not (is_path(path) and isinstance(number, int)):
        raise nonsense()
    common: dict[str, Any] = {name: facts.get(name) for name in ("nbytes", "sha256", "note")}
    check_facts(common, FACTS)
    if not path:
        return Sample(sample_id=file.key, uri=file.uri, frame=split_id(file.key)[2], **common)
    return Sample(sample_id=join_id(file.sample_id, path), uri=file.uri, member="!".join(path), **common)


def _make_sample(file: SourceFile, member: Sample, fields: dict[str, Any]) -> Sample:
    frame = fields.get("frame")
    sample_id = member.sample_id if frame is None else f"{member.sample_id}#{frame}"
    if file.windows and (window := file.windows.get(sample_id)) and not fields.get("error_code"):
        fields |= window_fields(window)
    return replace(member, sample_id=sample_id, **fields)


def _hide(sample: Sample, key: bytes) -> Sample:
    """Return a sample with hashes in place of names."""
    return replace(sample, sample_id=hide_id(sample.sample_id, key), uri=HIDDEN, member=pseudonym(sample.member, key))
