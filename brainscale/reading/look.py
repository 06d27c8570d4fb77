"""Look into files for DICOM series, by the beginning of each file and of each member of an archive."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyarrow as pa

from brainscale.errors import SampleError
from brainscale.reading.answers import HEAD_FACTS, check_facts, is_path, nonsense
from brainscale.reading.children import decoder_of
from brainscale.reading.file_tables import files_in
from brainscale.reading.plan import NO_DICOM, SERIES
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import join_id
from brainscale.reading.sources import SourceFile, open_file

BATCH_ROWS = 1024


def look_into(files: pa.Table, *, request: ReadRequest) -> Iterator[pa.Table]:
    """Look into each file of a table.

    Args:
        files: schema `SOURCE_FILES`.
        request: its key makes the hashes.

    Yields:
        Tables of schema `SERIES`. A file that cannot be read has no row.
    """
    rows: list[dict[str, Any]] = []
    for file in files_in(files):
        with suppress(SampleError):  # whoever reads the file says so
            for row in _look_into_file(file, request):
                rows.append({"file_id": file.key, **row})
                if len(rows) == BATCH_ROWS:
                    yield pa.Table.from_pylist(rows, schema=SERIES)
                    rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=SERIES)


def _look_into_file(file: SourceFile, request: ReadRequest) -> Iterator[dict[str, Any]]:
    asked = {"series": True, "members": file.members, "without": NO_DICOM}
    with open_file(file.uri) as (stream, _):
        for facts, _ in decoder_of(request).ask(asked, stream):
            path = facts.pop("path", None)
            check_facts(facts, HEAD_FACTS)
            if not is_path(path) or facts.keys() != HEAD_FACTS.keys():
                raise nonsense()
            member_id = join_id(file.sample_id, path)
            yield {"sample_id": member_id, **facts, "scan": facts["scan"] or member_id}
