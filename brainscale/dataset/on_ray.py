"""Comparing the signatures of large sets, and reading the shards of large manifests, with Ray tasks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from brainscale.dataset.near_duplicates import Map
from brainscale.dataset.shard_columns import ManifestColumns, shuffle_here
from brainscale.reading.sources import SourceFile
from brainscale.storage.shards import ShardedTable

BLOCK_FILES = 512
"""Files that one task of a long listing reads: each task costs the driver milliseconds."""
SMALL = 50_000
"""Samples up to which one process compares signatures: it takes about as long as Ray needs to start."""


@contextmanager
def open_map(samples: int) -> Iterator[Map]:
    """Connect to Ray if there are many samples, and yield what applies a function to many arguments.

    Args:
        samples: number of samples to compare.

    Raises:
        ClusterError: Ray does not answer or does not start.
    """
    if samples <= SMALL:
        yield map
        return
    from brainscale.cluster.session import session  # here: small sets need no Ray, whose import takes long

    with session():
        yield map_on_ray


@contextmanager
def open_columns(*tables: ShardedTable, out: str | None = None, shared: bool = False) -> Iterator[ManifestColumns]:
    """Yield the columns of sharded manifests, one manifest after another; connects to Ray if they are large.

    Args:
        tables: the manifests.
        out: folder that the tasks will write to, if they do.
        shared: whether every node of a cluster mounts local paths.

    Raises:
        ClusterError: Ray does not answer or does not start.
        UsageError: one of the folders is on a path that not every node can read.
    """
    with open_map(sum(table.rows for table in tables)) as run:
        if run is map:
            yield ManifestColumns(tables, map, shuffle_here)
            return
        from brainscale.cluster.capacity import require_shared  # here, as above

        require_shared([*(table.location for table in tables), out], shared)
        yield ManifestColumns(tables, run, shuffle_on_ray)


def choose_map(samples: int, small: int = SMALL) -> Map:
    """Return what applies a function to many arguments: the built-in map, or tasks on the connected Ray.

    Args:
        samples: number of samples.
        small: number of samples up to which it is the built-in map.
    """
    return map if samples <= small else map_on_ray


def map_on_ray(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of a function for each argument, in order, computed by Ray tasks.

    Twice as many tasks as the cluster has CPUs are under way, so that neither arguments nor results fill the memory.
    """
    import ray

    task = ray.remote(num_cpus=1)(_apply)
    shared_function = ray.put(function)  # once, with all that it holds: else each task would have a copy
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: deque[Any] = deque()
    for argument in arguments:
        if len(running) >= limit:
            yield ray.get(running.popleft())
        running.append(task.remote(shared_function, argument))
    while running:
        yield ray.get(running.popleft())


def read_portions(
    portions: Iterable[list[SourceFile]],
    read: Callable[[pa.Table], Iterator[pa.Table]],
    workers: int | None,
    write: Callable[[int, Callable[[], Iterator[pa.Table]]], Any],
) -> Iterator[Any]:
    """Read portions of a listing one after another, and yield what a task makes of each while the next is read.

    Args:
        portions: files to read; each is dropped when it has been read.
        read: table of files → tables of rows; must not raise for a bad file.
        workers: number of tasks that read at the same time; by default as many as there is room for.
        write: takes the number of a portion and a function that yields its tables of rows.
    """
    import ray

    from brainscale.reading.on_ray import read_parallel  # here, as above

    task = ray.remote(num_cpus=1)(_write_blocks)
    shared_write = ray.put(write)
    running: deque[Any] = deque()
    for number, files in enumerate(portions):
        blocks = read_parallel(files, read, workers, BLOCK_FILES).blocks()
        running.append(task.remote(shared_write, number, blocks))  # in a list, so that the task fetches one at a time
        del blocks
        if len(running) > 1:
            yield ray.get(running.popleft())
    while running:
        yield ray.get(running.popleft())


def _write_blocks(write: Callable[[int, Callable[[], Iterator[pa.Table]]], Any], number: int, blocks: list[Any]) -> Any:
    import ray

    return write(number, lambda: map(ray.get, blocks))


def shuffle_on_ray(
    pick: Callable[[Any, list[Any]], list[Any]],
    sources: Sequence[Any],
    requests: list[list[Any]],
    combine: Callable[[Any, list[Any]], Any],
    arguments: list[Any],
) -> Iterator[Any]:
    """Bring parts of every source together in tasks, through Ray's object store (see `shard_columns.Shuffle`)."""
    import ray

    picking = ray.remote(num_cpus=1, num_returns=len(arguments))(_pick_each)
    combining = ray.remote(num_cpus=1)(_combine)
    parts: list[Any] = [picking.remote(pick, source, wanted) for source, wanted in zip(sources, requests, strict=True)]
    if len(arguments) == 1:
        parts = [[part] for part in parts]
    results = [combining.remote(combine, argument, *(p[n] for p in parts)) for n, argument in enumerate(arguments)]
    del parts
    while results:
        yield ray.get(results.pop(0))


def _pick_each(pick: Callable[[Any, list[Any]], list[Any]], source: Any, requests: list[Any]) -> Any:
    parts = pick(source, requests)
    return tuple(parts) if len(parts) > 1 else parts[0]


def _combine(combine: Callable[[Any, list[Any]], Any], argument: Any, *parts: Any) -> Any:
    return combine(argument, list(parts))


def _apply(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)
