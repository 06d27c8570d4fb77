"""Comparing the signatures of large sets with Ray tasks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from brainscale.dataset.near_duplicates import Map

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


def choose_map(samples: int) -> Map:
    """Return what applies a function to many arguments: the built-in map, or tasks on the connected Ray."""
    return map if samples <= SMALL else map_on_ray


def map_on_ray(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of a function for each argument, in order, computed by Ray tasks.

    Twice as many tasks as the cluster has CPUs are under way, so that neither arguments nor results fill the memory.
    """
    import ray

    task = ray.remote(num_cpus=1)(_apply)
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: deque[Any] = deque()
    for argument in arguments:
        if len(running) >= limit:
            yield ray.get(running.popleft())
        running.append(task.remote(function, argument))
    while running:
        yield ray.get(running.popleft())


def _apply(function: Callable[[Any], Any], argument: Any) -> Any:
    return function(argument)
