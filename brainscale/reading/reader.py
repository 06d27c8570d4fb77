"""A unit of work → rows: the one place where bytes become samples, for index, tensors and score alike.

Every file, member, slice or frame gives a row: a plane, or an error with a stable code. Nothing raises.
Files are opened and hashed here; a child process decodes them, so that one which kills its decoder is a row too.
"""

import atexit
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import RERUN, SampleError, StorageError
from brainscale.reading import sample_ids as names
from brainscale.reading.archives import Member, members
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox
from brainscale.reading.sources import UNREACHABLE, SourceFile, list_files, open_file
from brainscale.schema import MANIFEST

DECODER = "brainscale.reading.decoder"  # a module to run, not to import: the formats are its business alone
ROWS = 64
"""Rows handed on at a time: what is in memory does not grow with an archive or a volume."""

SOURCE_FILES = pa.schema(
    [
        MANIFEST.field("sample_id"),
        MANIFEST.field("uri"),
        pa.field("wanted", pa.list_(pa.string())),
    ]
)

COLUMNS = pa.schema(
    [
        *(MANIFEST.field(name) for name in MANIFEST.names if name not in ("label", "group", "split", "fold")),
        pa.field("unit_rows", pa.int32()),  # on the last row of a unit: how many rows the unit has
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
        patient: keyed hash of the patient's identifier; None where the file names none.
        scan: keyed hash of the series; None where the file names none.
        empty: whether a slice shows next to nothing.
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
    patient: str | None = None
    scan: str | None = None
    empty: bool = False
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
    side = request.preprocess.image_size

    def sample(row: dict[str, Any]) -> Sample:
        plane = np.frombuffer(row["plane"], np.uint8).reshape(side, side) if row.get("plane") else None
        return Sample(**{**row, "plane": plane})

    return (sample(row) for file in files for row in read_file(file, request))


def read_file(unit: SourceFile, request: ReadRequest) -> Iterator[dict[str, Any]]:
    """Read, unpack, recognise, decode and preprocess one unit.

    Args:
        unit: the file.
        request: what is wanted of each frame.

    Yields:
        One row for each sample in it, with columns of `COLUMNS`; at least one unless some are wanted only.
    """
    seen = set()
    for row in _all_rows(unit, request):
        seen.add(row["sample_id"])
        yield row
    for gone in [wanted for wanted in unit.wanted or () if wanted not in seen]:
        _, member, frame = names.split_id(gone)
        text = "its file holds no such sample any more"
        yield {**_row(unit, error_code="gone", error=text), "sample_id": gone, "member": member, "frame": frame}


def _all_rows(unit: SourceFile, request: ReadRequest) -> Iterator[dict[str, Any]]:
    try:
        with open_file(unit.uri) as (stream, nbytes):
            stream.seek(0)
            for member in members(stream, nbytes, request.limits):
                yield from _rows(unit, member, request)
    except SampleError as error:
        yield _row(unit, error_code=error.code, error=error.text)


def planes_of(units: Sequence[SourceFile], sample_ids: Sequence[str], request: ReadRequest) -> dict[str, np.ndarray]:
    """Planes of a few samples, uint8 [S, S], in this process; those that cannot be read are left out.

    Args:
        units: files that hold them, and others.
        sample_ids: the samples.
        request: what is wanted of each frame.
    """
    wanted: dict[str, list[str]] = {}
    for sample_id in sample_ids:
        wanted.setdefault(names.split_id(sample_id)[0], []).append(sample_id)
    asked = [replace(unit, wanted=tuple(wanted[unit.sample_id])) for unit in units if unit.sample_id in wanted]
    shape = (request.preprocess.image_size, request.preprocess.image_size)
    return {
        row["sample_id"]: np.frombuffer(row["plane"], np.uint8).reshape(shape)
        for unit in asked
        for row in read_file(unit, request)
        if row.get("plane")
    }


def _rows(unit: SourceFile, member: Member, request: ReadRequest) -> Iterator[dict[str, Any]]:
    frames = _wanted(unit, member)
    if frames is not None and not frames:
        return
    if member.problem:
        problem = member.problem
        yield _row(unit, member.path, nbytes=member.nbytes, error_code=problem.code, error=problem.text)
        return
    data = member.data or b""
    known: dict[str, Any] = {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        answers = _decoder(request).ask({"frames": None if frames is None else list(frames)}, data)
        for facts, plane in answers:
            yield _row(unit, member.path, **known, **facts, plane=bytes(plane) if len(plane) else None)
    except SampleError as error:
        yield _row(unit, member.path, **known, error_code=error.code, error=error.text)


def _wanted(unit: SourceFile, member: Member) -> set[int | None] | None:
    """Numbers of the frames that are wanted of a member; None for all."""
    if unit.wanted is None:
        return None
    whole = names.sample_id(unit.sample_id, member.path)
    return {
        frame for wanted in unit.wanted for _, _, frame in [names.split_id(wanted)] if wanted.split("#")[0] == whole
    }


def _row(
    unit: SourceFile, path: Sequence[str] = (), *, frame: int | None = None, empty: bool = False, **known: Any
) -> dict[str, Any]:
    return {
        "sample_id": names.sample_id(unit.sample_id, path, frame),
        "uri": unit.uri,
        "member": "!".join(path) or None,
        "frame": frame,
        "empty": empty,
        **known,
    }


_decoders: dict[str, Sandbox] = {}  # this process's decoder, by its settings; one, kept from unit to unit


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


def file_table(units: Sequence[SourceFile]) -> pa.Table:
    """Units as a table that Ray Data can carry."""
    return pa.Table.from_pylist(
        [{name: getattr(unit, name) for name in SOURCE_FILES.names} for unit in units], schema=SOURCE_FILES
    )


def files_of_manifest(manifest: pa.Table) -> list[SourceFile]:
    """The files that hold a manifest's samples, each asked for these samples only, in the manifest's order."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for sample_id, uri in zip(manifest["sample_id"].to_pylist(), manifest["uri"].to_pylist(), strict=True):
        wanted.setdefault((names.split_id(sample_id)[0], uri), []).append(sample_id)
    return [SourceFile(sample_id=unit, uri=uri, wanted=tuple(ids)) for (unit, uri), ids in wanted.items()]


def require_reachable(table: pa.Table) -> None:
    """Refuse rows of a store that did not answer: nobody knows what these samples are.

    Raises:
        StorageError: names the first.
    """
    silent = table.filter(pc.equal(table["error_code"], UNREACHABLE))
    if len(silent):
        raise StorageError(f"{unreachable_message(silent)}: mend that, {RERUN}")


def unreachable_message(silent: pa.Table) -> str:
    """What to say of rows of a store that did not answer."""
    return f"the store of {len(silent)} sample(s) does not answer, '{silent['sample_id'][0].as_py()}' first"


def read_tables(units: pa.Table, *, request: ReadRequest, skip: frozenset[str] = frozenset()) -> Iterator[pa.Table]:
    """`read` for each row of a table of units.

    Args:
        units: of schema `UNIT`.
        request: what is wanted of each frame.
        skip: ids whose rows are left out.

    Yields:
        Tables of schema `COLUMNS`, of `ROWS` rows at most.
    """
    some: list[dict[str, Any]] = []
    for facts in units.to_pylist():
        for row in _counted(read_file(SourceFile(**facts), request)):
            if row["sample_id"] not in skip:
                some.append(row)
            if len(some) == ROWS:
                yield pa.Table.from_pylist(some, schema=COLUMNS)
                some = []
    if some:
        yield pa.Table.from_pylist(some, schema=COLUMNS)


def _counted(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, the last with their number: whoever has it and as many rows has the whole unit."""
    count, held = 0, None
    for row in rows:
        if held is not None:
            yield held
        count, held = count + 1, row
    if held is not None:
        yield {**held, "unit_rows": count}
