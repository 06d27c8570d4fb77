"""A unit of work → rows: the one place where bytes become samples, for index, tensors and score alike.

Every file, member, slice or frame gives a row: a plane, or an error with a stable code. Nothing raises.
Files are opened and hashed here; a child process decodes them, so that one which kills its decoder is a row too.
"""

import atexit
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import SampleError, StorageError
from brainscale.reading import sample_ids as names
from brainscale.reading.archives import Member, members
from brainscale.reading.request import Wish
from brainscale.reading.sandbox import Child
from brainscale.reading.sources import UNREACHABLE, Unit, opened
from brainscale.schema import MANIFEST
from brainscale.storage.remote import AGAIN

DECODER = "brainscale.reading.decoder"  # a module to run, not to import: the formats are its business alone
ROWS = 64
"""Rows handed on at a time: what is in memory does not grow with an archive or a volume."""

UNIT = pa.schema(
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


def read(unit: Unit, wish: Wish) -> Iterator[dict[str, Any]]:
    """Read, unpack, recognise, decode and preprocess one unit.

    Args:
        unit: the file.
        wish: what is wanted of each frame.

    Yields:
        One row for each sample in it, with columns of `COLUMNS`; at least one unless some are wanted only.
    """
    seen = set()
    for row in _all_rows(unit, wish):
        seen.add(row["sample_id"])
        yield row
    for gone in [wanted for wanted in unit.wanted or () if wanted not in seen]:
        _, member, frame = names.parts(gone)
        text = "its file holds no such sample any more"
        yield {**_row(unit, error_code="gone", error=text), "sample_id": gone, "member": member, "frame": frame}


def _all_rows(unit: Unit, wish: Wish) -> Iterator[dict[str, Any]]:
    try:
        with opened(unit.uri) as (stream, nbytes):
            stream.seek(0)
            for member in members(stream, nbytes, wish.limits):
                yield from _rows(unit, member, wish)
    except SampleError as error:
        yield _row(unit, error_code=error.code, error=error.text)


def planes_of(units: Sequence[Unit], sample_ids: Sequence[str], wish: Wish) -> dict[str, np.ndarray]:
    """Planes of a few samples, uint8 [S, S], in this process; those that cannot be read are left out.

    Args:
        units: files that hold them, and others.
        sample_ids: the samples.
        wish: what is wanted of each frame.
    """
    wanted: dict[str, list[str]] = {}
    for sample_id in sample_ids:
        wanted.setdefault(names.parts(sample_id)[0], []).append(sample_id)
    asked = [replace(unit, wanted=tuple(wanted[unit.sample_id])) for unit in units if unit.sample_id in wanted]
    shape = (wish.spec.image_size, wish.spec.image_size)
    return {
        row["sample_id"]: np.frombuffer(row["plane"], np.uint8).reshape(shape)
        for unit in asked
        for row in read(unit, wish)
        if row.get("plane")
    }


def _rows(unit: Unit, member: Member, wish: Wish) -> Iterator[dict[str, Any]]:
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
        answers = _decoder(wish).ask({"frames": None if frames is None else list(frames)}, data)
        for facts, plane in answers:
            yield _row(unit, member.path, **known, **facts, plane=bytes(plane) if len(plane) else None)
    except SampleError as error:
        yield _row(unit, member.path, **known, error_code=error.code, error=error.text)


def _wanted(unit: Unit, member: Member) -> set[int | None] | None:
    """Numbers of the frames that are wanted of a member; None for all."""
    if unit.wanted is None:
        return None
    whole = names.sample_id(unit.sample_id, member.path)
    return {frame for wanted in unit.wanted for _, _, frame in [names.parts(wanted)] if wanted.split("#")[0] == whole}


def _row(
    unit: Unit, path: Sequence[str] = (), *, frame: int | None = None, empty: bool = False, **known: Any
) -> dict[str, Any]:
    return {
        "sample_id": names.sample_id(unit.sample_id, path, frame),
        "uri": unit.uri,
        "member": "!".join(path) or None,
        "frame": frame,
        "empty": empty,
        **known,
    }


_decoders: dict[str, Child] = {}  # this process's decoder, by its settings; one, kept from unit to unit


def _decoder(wish: Wish) -> Child:
    settings = wish.to_json()
    key = json.dumps(settings)
    if key not in _decoders:
        _end_decoder()
        _decoders[key] = Child(DECODER, settings, wish.limits.seconds)
    return _decoders[key]


@atexit.register
def _end_decoder() -> None:
    while _decoders:
        _decoders.popitem()[1].close()


def unit_table(units: Sequence[Unit]) -> pa.Table:
    """Units as a table that Ray Data can carry."""
    return pa.Table.from_pylist([{name: getattr(unit, name) for name in UNIT.names} for unit in units], schema=UNIT)


def units_of(manifest: pa.Table) -> list[Unit]:
    """The files that hold a manifest's samples, each asked for these samples only, in the manifest's order."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for sample_id, uri in zip(manifest["sample_id"].to_pylist(), manifest["uri"].to_pylist(), strict=True):
        wanted.setdefault((names.parts(sample_id)[0], uri), []).append(sample_id)
    return [Unit(sample_id=unit, uri=uri, wanted=tuple(ids)) for (unit, uri), ids in wanted.items()]


def require_answers(table: pa.Table) -> None:
    """Refuse rows of a store that did not answer: nobody knows what these samples are.

    Raises:
        StorageError: names the first.
    """
    silent = table.filter(pc.equal(table["error_code"], UNREACHABLE))
    if len(silent):
        raise StorageError(f"{unreached(silent)}: mend that, {AGAIN}")


def unreached(silent: pa.Table) -> str:
    """What to say of rows of a store that did not answer."""
    return f"the store of {len(silent)} sample(s) does not answer, '{silent['sample_id'][0].as_py()}' first"


def read_tables(units: pa.Table, *, wish: Wish, skip: frozenset[str] = frozenset()) -> Iterator[pa.Table]:
    """`read` for each row of a table of units.

    Args:
        units: of schema `UNIT`.
        wish: what is wanted of each frame.
        skip: ids whose rows are left out.

    Yields:
        Tables of schema `COLUMNS`, of `ROWS` rows at most.
    """
    some: list[dict[str, Any]] = []
    for facts in units.to_pylist():
        for row in _counted(read(Unit(**facts), wish)):
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
