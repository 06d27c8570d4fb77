"""Portions of a zip archive, by the directory at its end: several readers share an archive that is too large for one.

A portion is read as the whole archive would be: the names of its files are those that they have beside all others.
This runs in the child process, as `archives` does.
"""

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.archives import Budget, Member, read_members, unpack_entry
from brainscale.reading.decompression import Stream
from brainscale.reading.sample_ids import as_text
from brainscale.reading.suffixes import suffix_of
from brainscale.reading.zip_entries import ZIP, Directory, ZipEntry, central_entry, central_headers, find_directory
from brainscale.seeds import derive

_NUMBERS = re.compile(r"(~\d+)+$")  # of names that came before


def find_portions(
    stream: Stream, nbytes: int, directories: int, limits: LimitsConfig
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Cut a zip archive into portions.

    Args:
        stream: the archive.
        nbytes: size of the members of a portion in the archive, at least.
        directories: how often the directory fits into a portion, at least: each reader of a portion reads it.
        limits: of entries.

    Yields:
        Number of the `first` entry of a portion, number of the one after the last (`stop`), and size (`nbytes`).
        Nothing if there would be one portion only, for what is no zip archive with a whole directory or has too many
        entries, and for one that may hold NIfTI pairs, which are read together.
    """
    portions: list[tuple[int, int, int]] = []
    with suppress(Exception):  # whoever reads the file says what is wrong
        portions = _cut(io.BufferedReader(stream, 2**18), nbytes, directories, limits)
    if len(portions) > 1:
        yield from (({"first": first, "stop": stop, "nbytes": size}, b"") for first, stop, size in portions)


def _cut(stream: Stream, nbytes: int, directories: int, limits: LimitsConfig) -> list[tuple[int, int, int]]:
    stream.seek(0)
    is_zip = stream.read(4).startswith(ZIP)
    directory = find_directory(stream) if is_zip else None
    if directory is None:
        return []
    archive_nbytes = stream.seek(0, io.SEEK_END)
    wanted = max(nbytes, directories * (archive_nbytes - directory.start))
    portions: list[tuple[int, int, int]] = []
    first = count = size = 0
    for entry in _entries(stream, directory):
        if suffix_of(entry.name) or count == limits.entries:
            return []
        if size >= wanted and not entry.is_folder:  # a portion has a file
            portions.append((first, count, size))
            first, size = count, 0
        size += 0 if entry.is_folder else entry.encoded_nbytes
        count += 1
    portions.append((first, count, size))
    is_whole = (count - directory.entries) % 2**16 == 0  # old tools write 16 bits
    overlaps = sum(size for _, _, size in portions) > archive_nbytes
    return portions if is_whole and not overlaps else []


def read_portion(
    stream: Stream, limits: LimitsConfig, portion: tuple[int, int], without: tuple[str, ...] = ()
) -> Iterator[Member]:
    """Read the files of one portion of a zip archive; there may be none.

    Args:
        stream: the archive.
        limits: of sizes, ratio and depth.
        portion: numbers of the first entry and of the one after the last.
        without: suffixes, in small letters, of names of files to leave out.
    """
    nbytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return read_members(stream, nbytes, limits, partial(_unzip_portion, (portion[0], portion[1]), without))


def _unzip_portion(
    portion: tuple[int, int],
    without: tuple[str, ...],
    stream: Stream,
    path: tuple[str, ...],
    depth: int,
    budget: Budget,
    limits: LimitsConfig,
) -> Iterator[Member]:
    """Read the files of a portion, and before them the names of those of earlier entries that are called the same."""
    first, stop = portion
    directory = find_directory(stream)
    if directory is None:
        raise _other_archive()
    stems, count, nbytes = set[int](), 0, 0
    for entry in _entries(stream, directory, first, stop):
        stems.add(_hash_stem(entry))
        count, nbytes = count + 1, nbytes + entry.encoded_nbytes
    if count != stop - first:
        raise _other_archive()
    budget = Budget(nbytes, limits)
    for number, entry in enumerate(_entries(stream, directory, 0, stop)):
        is_skipped = number < first
        if not is_skipped:
            budget.count_entry()
        if entry.is_folder or (is_skipped and _hash_stem(entry) not in stems):
            continue
        if entry.name.lower().endswith(without):
            yield Member(path=(*path, as_text(entry.name)), skipped=True)
        elif is_skipped:
            own = Budget(entry.encoded_nbytes, limits)
            for member in unpack_entry(stream, entry, path, depth, own, limits):
                yield replace(member, data=None, skipped=True)
        else:
            yield from unpack_entry(stream, entry, path, depth, budget, limits)


def _entries(stream: Stream, directory: Directory, first: int = 0, stop: int | None = None) -> Iterator[ZipEntry]:
    for header, variable in islice(central_headers(stream, directory.start), first, stop):
        yield central_entry(header, variable)


def _hash_stem(entry: ZipEntry) -> int:
    """Return a hash that two names share if `unique_name` may give them one name."""
    return derive(0, _NUMBERS.sub("", as_text(entry.name)))


def _other_archive() -> SampleError:
    return SampleError("corrupt_archive", "the directory at the archive's end is not the one that it was cut by")
