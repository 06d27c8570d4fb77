"""Files → samples: the one place where bytes become planes, for indexing, training and scoring alike.

Every file, archive member, slice or frame is a sample: a plane, or an error with a stable code. Nothing raises.
Files are opened and hashed here; a child process decodes them, so that a file that crashes its decoder is a
sample with an error too.
"""

import atexit
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import RERUN, SampleError, StorageError
from brainscale.reading import pairs
from brainscale.reading.acquisition import UNSTATED, Acquisition
from brainscale.reading.archives import Member, read_members
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import join_id, split_id
from brainscale.reading.sandbox import Sandbox
from brainscale.reading.sidecars import is_sidecar
from brainscale.reading.sources import UNREACHABLE, SourceFile, list_files, open_file
from brainscale.schema import MANIFEST

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of all formats
BATCH_ROWS = 64
"""Rows of one table: memory does not grow with an archive or a volume."""

SOURCE_FILES = pa.schema(
    [
        MANIFEST.field("sample_id"),
        MANIFEST.field("uri"),
        pa.field("sample_ids", pa.list_(pa.string())),
    ]
)
"""Files as a table; the columns are attributes of `SourceFile`."""

LATER = ("label", "group", "left_out", "split", "fold")  # columns of a manifest that come from no file
COLUMNS = pa.schema(
    [
        *(MANIFEST.field(name) for name in MANIFEST.names if name not in LATER),
        pa.field("patient_with_issuer", pa.string()),  # two of one patient: the same identifier by two issuers
        pa.field("patient_placeholder", pa.string()),  # why a file that has an identifier names no patient
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
        phash: hash of the whole image, 16 hexadecimal digits; None where not requested, or without contrast.
        head_phash: hash of the head, the same way.
        signature: the head in 16 × 16 bytes, to recognise it again; None where the hashes are.
        patient: keyed hash of the patient's identifier; None where the file names none, or a placeholder.
        patient_with_issuer: keyed hash of the identifier and its issuer; None where the file names no issuer.
        patient_placeholder: the word that stands in place of an identifier, such as anonymous.
        scan: keyed hash of the series; None where the file names none.
        empty: whether a slice shows next to nothing.
        acquisition: how the picture was taken.
        plane: uint8 [image_size, image_size]; None where not requested, or with an error.
        error_code: stable identifier of the error; None for a sample that was read.
        error: what is wrong, in one line.
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
    head_phash: str | None = None
    signature: bytes | None = field(default=None, repr=False)
    patient: str | None = None
    patient_with_issuer: str | None = None
    patient_placeholder: str | None = None
    scan: str | None = None
    empty: bool = False
    acquisition: Acquisition = UNSTATED
    plane: np.ndarray | None = field(default=None, repr=False)
    error_code: str | None = None
    error: str | None = None


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
    read_ids = set()
    for sample in _read_members(file, request):
        read_ids.add(sample.sample_id)
        yield sample
    for sample_id in file.sample_ids or ():
        if sample_id not in read_ids:
            _, member, frame = split_id(sample_id)
            error = "its file no longer holds this sample"
            yield Sample(sample_id=sample_id, uri=file.uri, member=member, frame=frame, error_code="gone", error=error)


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
    data, side = member.data or b"", request.preprocess.image_size
    nbytes, sha256 = len(data), hashlib.sha256(data).hexdigest()
    try:
        answers = _decoder(request).ask({"frames": None if frames is None else list(frames)}, data)
        for facts, plane in answers:
            signature, acquisition = facts.pop("signature", None), Acquisition(**facts.pop("acquisition", {}))
            yield Sample(
                sample_id=join_id(file.sample_id, member.path, facts.get("frame")),
                uri=file.uri,
                member=path,
                nbytes=nbytes,
                sha256=sha256,
                plane=np.frombuffer(plane, np.uint8).reshape(side, side) if len(plane) else None,
                signature=None if signature is None else bytes.fromhex(signature),
                acquisition=acquisition,
                **facts,
            )
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


def _wanted_frames(file: SourceFile) -> dict[str, set[int | None]] | None:
    """Return the numbers of the frames to read of each member, by the member's id; None for all of all."""
    if file.sample_ids is None:
        return None
    wanted: dict[str, set[int | None]] = {}
    for sample_id in file.sample_ids:
        wanted.setdefault(sample_id.partition("#")[0], set()).add(split_id(sample_id)[2])
    return wanted


_decoders: dict[str, Sandbox] = {}  # by its settings: this process's one decoder, kept from file to file


def _decoder(request: ReadRequest) -> Sandbox:
    settings = request.to_json()
    key = json.dumps(settings)
    if key not in _decoders:
        _end_decoder()
        _decoders[key] = Sandbox(DECODER, settings, request.limits.seconds)
    return _decoders[key]


@atexit.register
def _end_decoder() -> None:
    while _decoders:
        _decoders.popitem()[1].close()


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
    acquisitions = columns.pop("acquisition")
    columns |= {column.name: [getattr(a, column.name) for a in acquisitions] for column in fields(Acquisition)}
    columns["plane"] = [None if plane is None else plane.data for plane in columns["plane"]]  # copied once, by Arrow
    columns["file_rows"] = [file_rows for _, file_rows in batch]
    return pa.Table.from_pydict(columns, schema=COLUMNS)
