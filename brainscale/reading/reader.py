"""Files → samples: the one place where bytes become planes, for indexing, training and scoring alike.

Every file, archive member, slice or frame is a sample: a plane, or an error with a stable code. Nothing raises.
Files are only opened here: a child process unpacks, hashes and decodes them, so that one that crashes it is a sample
with an error too. What the child answers is checked.
"""

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import PreprocessConfig
from brainscale.errors import RERUN, SampleError, StorageError
from brainscale.reading.answers import check_facts, is_text, nonsense
from brainscale.reading.confinement import Confinement
from brainscale.reading.pseudonyms import hide_id, pseudonym
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import join_id, split_id
from brainscale.reading.sandbox import Sandbox
from brainscale.reading.sources import UNREACHABLE, SourceFile, list_files, open_file
from brainscale.schema import HIDDEN, MANIFEST

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of all formats
BATCH_ROWS = 64
"""Rows of one table: memory does not grow with an archive or a volume."""
MAX_CRASHES = 16
"""Members of one archive that may end the decoder: each costs a new one, which has to find its place in the archive."""

SOURCE_FILES = pa.schema(
    [
        MANIFEST.field("sample_id"),
        MANIFEST.field("uri"),
        pa.field("sample_ids", pa.list_(pa.string())),
    ]
)
"""Files as a table; the columns are attributes of `SourceFile`."""

COLUMNS = pa.schema(
    [
        *(MANIFEST.field(name) for name in MANIFEST.names if name not in ("label", "group", "split", "fold")),
        pa.field("patient_with_issuer", pa.string()),  # two of one patient: the same identifier by two issuers
        pa.field("patient_placeholder", pa.string()),  # why a file that has an identifier names no patient
        pa.field("note", pa.string()),  # what is odd about a file that was read all the same
        pa.field("file_rows", pa.int32()),  # on the last row of a file: how many rows the file has
        pa.field("plane", pa.binary()),  # uint8, image_size × image_size, row by row
    ]
)
"""What `read_tables` yields."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One image, slice or frame of a source, or the error that stands in its place.

    Attributes:
        sample_id: path below the source, `!member` in an archive, `#frame` in a file of several frames.
        uri: absolute local path or address of the file.
        member: path inside the archive; None outside one.
        frame: number in a file of several frames, from 0; None for a file of one image.
        format: file format by content, such as JPEG, DICOM or NIfTI; None where it was not recognised.
        mode: how the file stores a pixel, such as RGB or MONOCHROME2 12.
        width: width of the stored image as shown, pixels.
        height: height of the stored image as shown, pixels.
        nbytes: size of the encoded file or member, bytes.
        sha256: hash of the encoded bytes.
        phash: perceptual hash, 16 hexadecimal digits; None where not requested, or without contrast.
        patient: keyed hash of the patient's identifier; None where the file names none, or a placeholder.
        patient_with_issuer: keyed hash of the identifier and its issuer; None where the file names no issuer.
        patient_placeholder: the word that stands in place of an identifier, such as anonymous.
        scan: keyed hash of the series; None where the file names none.
        empty: whether a slice shows next to nothing.
        plane: uint8 [image_size, image_size]; None where not requested, or with an error.
        error_code: stable identifier of the error; None for a sample that was read.
        error: what is wrong, in one line.
        note: what is odd about a file that was read all the same, in one line.
    """

    sample_id: str
    uri: str
    member: str | None = None
    frame: int | None = None
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    nbytes: int | None = None
    sha256: str | None = None
    phash: str | None = None
    patient: str | None = None
    patient_with_issuer: str | None = None
    patient_placeholder: str | None = None
    scan: str | None = None
    empty: bool = False
    plane: np.ndarray | None = field(default=None, repr=False)
    error_code: str | None = None
    error: str | None = None
    note: str | None = None


_FACTS = {column.name: column.type for column in fields(Sample) if column.name not in ("sample_id", "uri", "plane")}
"""What the decoder may say of a sample, and of which type each is."""


def read_samples(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], request: ReadRequest
) -> Iterator[Sample]:
    """Read every sample of one or several sources, one file after the other, without Ray.

    One member of an archive is in memory at a time. A file that cannot be read is a sample with an error.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses.
        request: what to read of each frame.

    Raises:
        SourceError: a source does not exist or holds no files; raised at once, before the first sample.
    """
    paths = [sources] if isinstance(sources, str | os.PathLike) else sources
    files = list_files([os.fspath(path) for path in paths])
    return (sample for file in files for sample in read_file(file, request))


def read_file(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read one file: unpack, recognise, decode and preprocess it.

    Args:
        file: the file, and the samples to read of it.
        request: what to read of each frame.

    Yields:
        The samples in the file, at least one; or those asked for, each with an error if the file holds it no more.
    """
    for sample in _read_wanted(file, request):
        yield _hide(sample, request.key) if request.hash_paths else sample


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
    planes: dict[str, np.ndarray] = {}
    for file in files:
        ids = ids_by_file.get(hide_id(file.sample_id, request.key) if request.hash_paths else file.sample_id)
        if ids:  # what a hashed name stands for is known only once it is read
            read = read_file(replace(file, sample_ids=None if request.hash_paths else tuple(ids)), request)
            planes |= {s.sample_id: s.plane for s in read if s.plane is not None and s.sample_id in ids}
    return planes


def read_tables(files: pa.Table, *, request: ReadRequest, skip: frozenset[str] = frozenset()) -> Iterator[pa.Table]:
    """Read each file of a table.

    Args:
        files: schema `SOURCE_FILES`.
        request: what to read of each frame.
        skip: ids of samples to leave out.

    Yields:
        Tables of schema `COLUMNS`, of `BATCH_ROWS` rows at most.
    """
    batch: list[tuple[Sample, int | None]] = []
    for row in files.to_pylist():
        for sample, file_rows in _count_last(read_file(SourceFile(**row), request)):
            if sample.sample_id not in skip:
                batch.append((sample, file_rows))
            if len(batch) == BATCH_ROWS:
                yield _sample_table(batch)
                batch = []
    if batch:
        yield _sample_table(batch)


def file_table(files: Sequence[SourceFile]) -> pa.Table:
    """Return files as a table of schema `SOURCE_FILES`, which Ray Data can carry."""
    return pa.Table.from_pylist(
        [{name: getattr(file, name) for name in SOURCE_FILES.names} for file in files], schema=SOURCE_FILES
    )


def files_of_manifest(manifest: pa.Table) -> list[SourceFile]:
    """Return the files of a manifest in its order, each with the ids of its samples in the manifest."""
    ids_by_file: dict[tuple[str, str], list[str]] = {}
    for sample_id, uri in zip(manifest["sample_id"].to_pylist(), manifest["uri"].to_pylist(), strict=True):
        ids_by_file.setdefault((split_id(sample_id)[0], uri), []).append(sample_id)
    return [
        SourceFile(sample_id=file_id, uri=uri, sample_ids=tuple(ids)) for (file_id, uri), ids in ids_by_file.items()
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


def check_confinement() -> Confinement:
    """Return what the processes that read untrusted files can no longer do on this machine.

    Raises:
        SampleError: `decoder_crashed`: such a process does not start.
    """
    request = ReadRequest(preprocess=PreprocessConfig())
    with closing(Sandbox(DECODER, request.to_json(), request.limits.seconds)) as sandbox:
        return sandbox.start()


def _read_wanted(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    missing = dict.fromkeys(file.sample_ids or ())
    error = SampleError("gone", "its file no longer holds this sample")
    try:
        for sample in _read_members(file, request):
            missing.pop(sample.sample_id, None)
            yield sample
    except SampleError as failure:
        error = failure
        missing = missing if file.sample_ids else {file.sample_id: None}
    for sample_id in missing:
        _, member, frame = split_id(sample_id)
        sample = Sample(sample_id=sample_id, uri=file.uri, member=member, frame=frame)
        yield replace(sample, error_code=error.code, error=error.text)


def _read_members(file: SourceFile, request: ReadRequest) -> Iterator[Sample]:
    """Read the members of a file, each of which may end the decoder.

    Raises:
        SampleError: the file cannot be opened or unpacked, or ended too many decoders.
    """
    asked: dict[str, Any] = {"file": file.sample_id, "wanted": _wanted(file), "skip": 0}
    with open_file(file.uri) as (stream, _):
        for crashes in range(1, MAX_CRASHES + 1):
            member = sample = None
            try:
                for facts, plane in _decoder(request).ask(asked, stream):
                    if "path" in facts:
                        member, asked["skip"] = _describe_member(file, facts), facts["member"] + 1
                    elif member is not None:
                        sample = _make_sample(member, facts, plane, request.preprocess.image_size)
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
    """Return the numbers of the frames to read of each member; None for all."""
    if file.sample_ids is None:
        return None
    wanted: dict[str, list[int | None]] = {}
    for sample_id in file.sample_ids:
        path, _, frame = sample_id.removeprefix(file.sample_id).partition("#")
        wanted.setdefault(path, []).append(int(frame) if frame else None)
    return wanted


def _describe_member(file: SourceFile, facts: Mapping[str, Any]) -> Sample:
    """Return what the samples of a member have in common."""
    path, number = facts["path"], facts.get("member")
    if not (isinstance(path, list) and all(map(is_text, path)) and isinstance(number, int)):
        raise nonsense()
    common: dict[str, Any] = {name: facts.get(name) for name in ("nbytes", "sha256", "note")}
    check_facts(common, _FACTS)
    return Sample(sample_id=join_id(file.sample_id, path), uri=file.uri, member="!".join(path) or None, **common)


def _make_sample(member: Sample, facts: dict[str, Any], plane: memoryview, side: int) -> Sample:
    check_facts(facts, _FACTS)
    if len(plane) not in (0, side**2):
        raise nonsense()
    frame = facts.get("frame")
    return replace(
        member,
        sample_id=member.sample_id if frame is None else f"{member.sample_id}#{frame}",
        plane=np.frombuffer(plane, np.uint8).reshape(side, side) if len(plane) else None,
        **facts,
    )


def _hide(sample: Sample, key: bytes) -> Sample:
    """Return a sample with hashes in place of names."""
    return replace(sample, sample_id=hide_id(sample.sample_id, key), uri=HIDDEN, member=pseudonym(sample.member, key))


_decoders: list[tuple[ReadRequest, Sandbox]] = []  # this process's one decoder, kept from file to file


def _decoder(request: ReadRequest) -> Sandbox:
    if not _decoders or not (_decoders[0][0] is request or _decoders[0][0] == request):
        _end_decoder()
        _decoders.append((request, Sandbox(DECODER, request.to_json(), request.limits.seconds)))
    return _decoders[0][1]


@atexit.register
def _end_decoder() -> None:
    while _decoders:
        _decoders.pop()[1].close()


def _count_last(samples: Iterable[Sample]) -> Iterator[tuple[Sample, int | None]]:
    """Pass on samples, the last with their number: whoever has it and as many rows has the whole file."""
    count, previous = 0, None
    for sample in samples:
        if previous is not None:
            yield previous, None
        count, previous = count + 1, sample
    if previous is not None:
        yield previous, count


def _sample_table(batch: Sequence[tuple[Sample, int | None]]) -> pa.Table:
    columns = {column.name: [getattr(sample, column.name) for sample, _ in batch] for column in fields(Sample)}
    columns["plane"] = [None if plane is None else plane.data for plane in columns["plane"]]  # copied once, by Arrow
    columns["file_rows"] = [file_rows for _, file_rows in batch]
    return pa.Table.from_pydict(columns, schema=COLUMNS)
