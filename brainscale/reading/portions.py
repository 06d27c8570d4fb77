"""Large zip archives → portions that are read as if they were files of their own, so that many readers share one."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from brainscale.errors import SampleError
from brainscale.reading.answers import nonsense
from brainscale.reading.children import decoder_of
from brainscale.reading.file_tables import files_in
from brainscale.reading.plan import NO_DICOM
from brainscale.reading.request import ReadRequest
from brainscale.reading.small_jobs import PACKED
from brainscale.reading.sources import SourceFile, open_file

LARGE_NBYTES = 128 * 2**20
"""Size of an archive from which on it is cut."""
PORTION_NBYTES = 64 * 2**20
"""Size of the members of a portion in the archive, at least."""
DIRECTORIES = 8
"""How often the directory of an archive fits into a portion, at least: each reader of a portion reads it."""
NO_ZIP = (*NO_DICOM, *(suffix for suffix in PACKED if suffix != ".zip"), ".dcm", ".ima", ".hdr", ".img")
"""Suffixes of files that are not cut, whatever they are."""
PORTIONS = pa.schema([("file_id", pa.string()), ("first", pa.int64()), ("stop", pa.int64()), ("nbytes", pa.int64())])
"""What is known of an archive that can be cut: a row for each portion, in order."""
Read = Callable[[pa.Table], Iterator[pa.Table]]
Apply = Callable[[Sequence[SourceFile], Read], Iterable[pa.Table]]
"""Applies a reading function to files, here or on a cluster, and yields its tables."""


def cut_archives(files: Sequence[SourceFile], request: ReadRequest, apply: Apply) -> list[SourceFile]:
    """Return files in their order, with portions in the place of each large zip archive that can be cut.

    Args:
        files: files, or samples of files: those are not cut.
        request: its limits hold.
        apply: looks into the large ones.
    """
    large = [file for file in files if _may_be_cut(file)]
    if not large:
        return list(files)
    portions: dict[str, list[tuple[int, int, int]]] = {}
    for table in apply(large, partial(find_portions, request=request, nbytes=PORTION_NBYTES, directories=DIRECTORIES)):
        for file_id, *portion in zip(*table.to_pydict().values(), strict=True):
            portions.setdefault(file_id, []).append((portion[0], portion[1], portion[2]))
    return [part for file in files for part in _portions_of(file, portions.get(file.sample_id, ()))]


def _may_be_cut(file: SourceFile) -> bool:
    name = file.uri.partition("?")[0].lower()
    return (
        file.sample_ids is None
        and file.members is None
        and (file.nbytes or 0) >= LARGE_NBYTES
        and not name.endswith(NO_ZIP)
    )


def _portions_of(file: SourceFile, portions: Iterable[tuple[int, int, int]]) -> list[SourceFile]:
    parts = [replace(file, members=(first, stop), nbytes=nbytes) for first, stop, nbytes in portions]
    return parts or [file]


def find_portions(files: pa.Table, *, request: ReadRequest, nbytes: int, directories: int) -> Iterator[pa.Table]:
    """Ask where the archives in a table of files can be cut.

    Args:
        files: schema `SOURCE_FILES`.
        request: its limits hold.
        nbytes: size of the members of a portion, at least.
        directories: how often the directory fits into a portion, at least.

    Yields:
        Tables of schema `PORTIONS`. A file that is not to be cut, or cannot be read, has no row.
    """
    asked = {"portions": nbytes, "directories": directories}
    for file in files_in(files):
        with suppress(SampleError):  # whoever reads the file says so
            rows = [{"file_id": file.sample_id, **portion} for portion in _ask_for_portions(file, request, asked)]
            yield pa.Table.from_pylist(rows, schema=PORTIONS)


def _ask_for_portions(file: SourceFile, request: ReadRequest, asked: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the portions of one archive, checked: they follow on each other, and are not too small."""
    portions: list[dict[str, Any]] = []
    stop = nbytes = 0
    with open_file(file.uri) as (stream, file_nbytes):
        for facts, _ in decoder_of(request).ask(asked, stream):
            is_sound = facts.keys() == {"first", "stop", "nbytes"} and all(type(n) is int for n in facts.values())
            if not is_sound or facts["first"] != stop or not stop < facts["stop"] <= request.limits.entries:
                raise nonsense()
            if facts["nbytes"] < 0 or (portions and portions[-1]["nbytes"] < asked["portions"]):
                raise nonsense()
            stop, nbytes = facts["stop"], nbytes + facts["nbytes"]
            if nbytes > file_nbytes:
                raise nonsense()
            portions.append(dict(facts))
    return portions if len(portions) > 1 else []
