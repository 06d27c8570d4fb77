"""What a cluster can give, now or once it has grown."""

from collections.abc import Iterable, Mapping

import ray
from ray._private.state import state

from brainscale.errors import ClusterError, UsageError
from brainscale.storage import is_address


def capacity() -> dict[str, float]:
    """CPU, GPU … that are there, or that the autoscaler may start.

    A cluster that scales from zero has nothing until a job asks; what it can never have is refused at once.
    """
    live: dict[str, float] = ray.cluster_resources()
    limits = state.get_max_resources_from_cluster_config() or {}
    return {kind: max(live.get(kind, 0.0), float(limits.get(kind, 0))) for kind in {**live, **limits}}


def require_room(workers: int, each: Mapping[str, float], beside: float = 0) -> str | None:
    """Refuse workers that the cluster can never have.

    Args:
        workers: how many, all at once.
        each: CPU, GPU … that one of them takes, on one node.
        beside: CPUs that reading takes beside them.

    Returns:
        What they will wait for, where an autoscaler has to start nodes first.

    Raises:
        ClusterError: names what is asked for and what is there.
    """
    live: dict[str, float] = ray.cluster_resources()
    grown = capacity()
    need = {kind: workers * amount + (beside if kind == "CPU" else 0) for kind, amount in each.items()}
    for kind, amount in need.items():
        if grown.get(kind, 0) < amount:
            reading = f", {beside:g} of them to read" if beside and kind == "CPU" else ""
            raise ClusterError(
                f"{workers} workers need {amount:g} {kind}s{reading}, and the cluster can have {grown.get(kind, 0):g}"
            )
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, amount in each.items():
        largest = max((node.get(kind, 0.0) for node in nodes), default=0.0)
        if grown == live and largest < amount:
            raise ClusterError(f"a worker needs {amount:g} {kind}s on one node, and the largest node has {largest:g}")
    if all(live.get(kind, 0) >= amount for kind, amount in need.items()):
        return None
    asked, there = (", ".join(f"{of.get(kind, 0):g} {kind}s" for kind in need) for of in (need, live))
    return f"waiting for {asked}: the cluster has {there} now, and its autoscaler may add nodes"


def require_shared(places: Iterable[str], shared: bool) -> None:
    """Refuse a path where several nodes work and nobody said that all of them see it.

    Args:
        places: sources and outputs.
        shared: whether somebody did.

    Raises:
        UsageError: names the first path.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())
    local = next((place for place in places if not is_address(place)), None)
    if nodes > 1 and local is not None and not shared:
        raise UsageError(
            f"{local} is a path, and this cluster has {nodes} nodes with disks of their own: give an address such as "
            "s3://bucket/folder, or --shared if every node mounts it there"
        )
