"""What a cluster can give, now or once it has grown."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from ray._private.state import state

from brainscale.errors import ClusterError, UsageError
from brainscale.placement import Nodes
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
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    _require_places(workers, each, there, kinds_of_nodes())
    if all(live.get(kind, 0) >= amount for kind, amount in need.items()):
        return None
    asked, have = (", ".join(f"{of.get(kind, 0):g} {kind}s" for kind in need) for of in (need, live))
    return f"waiting for {asked}: the cluster has {have} now, and its autoscaler may add nodes"


def kinds_of_nodes() -> list[dict[str, float]]:
    """CPU, GPU … of each kind of node that the autoscaler may start; none without an autoscaler."""
    return [{kind: float(amount) for kind, amount in group.resources.items()} for group in _groups()]


def _groups() -> list[Any]:
    config = state.get_cluster_config()
    return [group for group in config.node_group_configs if group.max_count] if config is not None else []


def nodes_there() -> list[Nodes]:
    """The nodes of the cluster as it is, by their CPUs."""
    sizes = Counter(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return [Nodes(count, cpus) for cpus, count in sizes.items()]


def nodes_to_come() -> list[Nodes]:
    """Those that an autoscaler may start, some of which may be there already."""
    no_limit = 2**20
    return [
        Nodes(group.max_count if group.max_count > 0 else no_limit, int(group.resources.get("CPU", 0)))
        for group in _groups()
    ]


def _require_places(
    workers: int, each: Mapping[str, float], nodes: Sequence[Mapping[str, float]], kinds: Sequence[Mapping[str, float]]
) -> None:
    """Refuse workers that fit on no node, or that the nodes cannot all hold where none can be added.

    Args:
        workers: how many, all at once.
        each: CPU, GPU … that one of them takes.
        nodes: what each node has.
        kinds: what a node of each kind has that an autoscaler may add.

    Raises:
        ClusterError: names what is asked for and what is there.
    """
    asked = " and ".join(f"{amount:g} {kind}s" for kind, amount in each.items())
    if not any(_places(node, each) for node in [*nodes, *kinds]):
        nodes_have = " or ".join(sorted({_named(node, each) for node in [*nodes, *kinds]})) or "nothing"
        raise ClusterError(f"a worker needs {asked} on one node, and a node has {nodes_have}")
    places = sum(_places(node, each) for node in nodes)
    if not kinds and places < workers:
        raise ClusterError(f"{workers} workers need {asked} each on one node, and the nodes have room for {places}")


def _places(node: Mapping[str, float], each: Mapping[str, float]) -> float:
    """Workers that a node can hold, in whole."""
    return min(node.get(kind, 0) // amount for kind, amount in each.items())


def _named(node: Mapping[str, float], each: Mapping[str, float]) -> str:
    return " and ".join(f"{node.get(kind, 0):g} {kind}s" for kind in each)


def require_shared(places: Iterable[str | None], shared: bool) -> None:
    """Refuse a path where several nodes work and nobody said that all of them see it.

    Args:
        places: sources, outputs, and what manifests and lists name; a list itself (@FILE) is the driver's.
        shared: whether somebody did.

    Raises:
        UsageError: names the first path.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())
    if shared or nodes < 2:
        return
    for local in (place for place in places if place and not place.startswith("@") and not is_address(place)):
        raise UsageError(
            f"{local} is a path, and this cluster has {nodes} nodes with disks of their own: give an address such as "
            "s3://bucket/folder, or --shared if every node mounts it there"
        )
