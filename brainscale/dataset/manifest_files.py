"""The files of a manifest in the order of their ids, a shard in memory at a time."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from brainscale.config.data_sections import PreprocessConfig
from brainscale.dataset.manifest import check_manifest, open_manifest_shards, read_manifest, require_paths
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.sample_ids import file_of
from brainscale.reading.sources import SourceFile

_BEFORE_MARKS = re.compile(r'[\x00-"]')
"""Characters that come before `#`: the samples `a#1` of a file `a` come after a file `a b`."""


def walk_manifest(path: str, spec: PreprocessConfig) -> Iterator[SourceFile]:
    """Yield the files of a manifest, each with its samples, sorted by id.

    Args:
        path: path or address of the manifest, in either form.
        spec: how slices will be windowed.

    Raises:
        ManifestError: there is no such manifest, it is damaged, or its paths are hashed.
    """
    shards = open_manifest_shards(path)
    waiting: pa.Table | None = None
    for table in [read_manifest(path)] if shards is None else shards.tables():
        rows = check_manifest(table if waiting is None else pa.concat_tables([waiting, table]), path)
        require_paths(rows, path)
        complete = _count_complete(rows["sample_id"].to_pylist())
        waiting = rows.slice(complete)
        yield from _files_of(rows.slice(0, complete), spec)
    if waiting is not None:
        yield from _files_of(waiting, spec)


def _files_of(rows: pa.Table, spec: PreprocessConfig) -> list[SourceFile]:
    return sorted(files_of_manifest(rows, spec), key=lambda file: file.sample_id)


def _count_complete(ids: list[str]) -> int:
    """Return how many rows come before the first file that later rows may belong to, or come before."""
    if not ids:
        return 0
    last = ids[-1]
    may_follow = [_BEFORE_MARKS.split(file_of(sample_id), maxsplit=1)[0] + "$" > last for sample_id in ids]
    return int(np.argmax(may_follow))
