"""Look into files for DICOM series, by the beginning of each file and of each member of an archive."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa

from brainscale.errors import SampleError
from brainscale.reading.archives import is_archive, read_members
from brainscale.reading.children import decoder_of
from brainscale.reading.plan import SERIES
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import join_id
from brainscale.reading.sources import open_file

BEGINNING_NBYTES = 2**14
"""In which the header of most objects is; of one with a longer header, all is read."""


BATCH_ROWS = 1024


def look_into(files: pa.Table, *, request: ReadRequest) -> Iterator[pa.Table]:
    """Look into each file of a table.

    Args:
        files: with the columns sample_id and uri.
        request: its key makes the hashes.

    Yields:
        Tables of schema `SERIES`. A file that cannot be read has no row.
    """
    rows: list[dict[str, Any]] = []
    for file_id, uri in zip(files["sample_id"].to_pylist(), files["uri"].to_pylist(), strict=True):
        with suppress(SampleError):  # whoever reads the file says so
            for row in _look_into_file(file_id, uri, request):
                rows.append({"file_id": file_id, **row})
                if len(rows) == BATCH_ROWS:
                    yield pa.Table.from_pylist(rows, schema=SERIES)
                    rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=SERIES)


def _look_into_file(file_id: str, uri: str, request: ReadRequest) -> Iterator[dict[str, Any]]:
    with open_file(uri) as (stream, nbytes):
        stream.seek(0)
        beginning = stream.read(BEGINNING_NBYTES)
        if not is_archive(beginning):
            yield from _look_at(file_id, beginning, len(beginning) < nbytes <= request.limits.nbytes, stream, request)
            return
        stream.seek(0)
        for member in read_members(stream, nbytes, request.limits):
            if member.data is not None:
                yield from _look_at(join_id(file_id, member.path), member.data, False, None, request)


def _look_at(member_id: str, data: bytes, is_cut: bool, stream: Any, request: ReadRequest) -> Iterator[dict[str, Any]]:
    """Yield a row for a DICOM object.

    Args:
        member_id: of the file or member.
        data: its content, or its beginning.
        is_cut: whether there is more in the stream.
        stream: the file.
        request: its key makes the hashes.
    """
    answer = _ask(data[:BEGINNING_NBYTES], request)
    if answer["is_dicom"] and answer["scan"] is None:
        answer = _ask(data + stream.read() if is_cut else data, request)
    if answer.pop("is_dicom"):
        answer["scan"] = answer["scan"] or member_id
        yield {"sample_id": member_id, **answer}


def _ask(data: bytes, request: ReadRequest) -> dict[str, Any]:
    ((answer, _),) = decoder_of(request).ask({"series": True}, data)
    return answer
