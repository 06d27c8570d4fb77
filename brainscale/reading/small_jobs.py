"""Jobs that are over before Ray would be up: which they are, and reading in this process for them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pyarrow as pa

from brainscale import progress
from brainscale.config.environment import count_cpus, surrounding_ray
from brainscale.reading.file_tables import file_table, groups_of
from brainscale.reading.sources import SourceFile
from brainscale.storage.remote import is_address

MAX_FILES = 400
"""Files of a small job at most."""
MAX_NBYTES = 64 * 2**20
"""Bytes of its files at most."""
MAX_ARCHIVE_NBYTES = 16 * 2**20
"""Bytes of one file at most that may be packed, and hold many times as much."""
PACKED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".mgz")
"""Suffixes of files that may be packed; a file without a suffix may be, too."""
BLOCK_FILES = 32
"""Files that a thread reads at a time; fewer of them are not worth a second decoder."""


def is_small(files: Sequence[SourceFile]) -> bool:
    """Return whether a job on files is over before Ray would be up: few files, few bytes, and no large archive.

    Args:
        files: what the job will read. An object in a store whose size is not known counts as large.
    """
    if len(files) > MAX_FILES or any(file.nbytes is None and is_address(file.uri) for file in files):
        return False
    sizes = [file.nbytes or 0 for file in files]
    packed = (nbytes for file, nbytes in zip(files, sizes, strict=True) if _may_be_packed(file.uri))
    return sum(sizes) <= MAX_NBYTES and max(packed, default=0) <= MAX_ARCHIVE_NBYTES


def is_ray_near() -> bool:
    """Return whether this process is connected to Ray, or runs on a cluster; Ray is not imported for this."""
    ray = sys.modules.get("ray")
    return surrounding_ray() is not None or bool(ray is not None and ray.is_initialized())


def read_here(
    files: Sequence[SourceFile], read: Callable[[pa.Table], Iterator[pa.Table]], threads: int | None = None
) -> Iterator[pa.Table]:
    """Apply a reading function to files in this process, a block of files in each thread at a time; tells its progress.

    Args:
        files: what to read; those of one group are read together.
        read: table of files → tables of rows; must not raise for a bad file.
        threads: number of threads, each with a decoder of its own; by default one for each CPU, if there is work.

    Yields:
        The tables, in the order of the files.
    """
    blocks = list(_cut_blocks(files))
    threads = min(len(blocks), threads or count_cpus())
    stage = progress.stage("reading", len(files), "files", sum(file.nbytes or 0 for file in files))
    with ThreadPoolExecutor(threads, "read") if threads > 1 else nullcontext() as pool:
        apply = map if pool is None else pool.map
        for block, rows in zip(blocks, apply(lambda block: list(read(file_table(block))), blocks), strict=True):
            stage.advance(len(block), nbytes=sum(file.nbytes or 0 for file in block))
            yield from rows


def _may_be_packed(uri: str) -> bool:
    name = uri.partition("?")[0].rpartition("/")[2].lower()
    return name.endswith(PACKED) or "." not in name


def _cut_blocks(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Cut files by number, in their order; those of one group are never cut apart."""
    block: list[SourceFile] = []
    for group in groups_of(files):
        if block and len(block) + len(group) > BLOCK_FILES:
            yield block
            block = []
        block += group
    if block:
        yield block
