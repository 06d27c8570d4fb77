"""What a cluster can give, now or once it has grown."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import ceil

import ray

from brainscale.cluster import autoscaler
from brainscale.cluster.placement import Nodes
from brainscale.errors import ClusterError, UsageError
from brainscale.storage.remote import is_address


def can_have_gpus(workers: int = 1, each: float = 1.0) -> bool:
    """Whether there are GPUs for so many workers, or an autoscaler says that there would be, and starts them."""
    if ray.cluster_resources().get("GPU", 0) >= workers * each:
        return True
    return _gpus_on_demand(ray.get_runtime_context().gcs_address, workers, each)


@cache
def _gpus_on_demand(cluster: str, workers: int, each: float) -> bool:  # noqa: ARG001 (one answer for each cluster)
    return bool(autoscaler.would_hold([{"GPU": each}] * workers))


def require_capacity(workers: int, each: Mapping[str, float], beside: float = 0) -> str | None:
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
    need = {kind: workers * amount + (beside if kind == "CPU" else 0) for kind, amount in each.items()}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    enough = all(live.get(kind, 0) >= amount for kind, amount in need.items())
    if enough and sum(_places(node, each) for node in nodes) >= workers:
        return None
    bundles = [dict(each)] * workers + ([{"CPU": beside}] if beside else [])
    held = autoscaler.would_hold(bundles)
    if held is None:
        _require_totals(workers, need, live, beside)
        _require_places(workers, each, nodes)
    elif not held and not _may_be_freed(each, nodes, live):
        raise ClusterError(_too_much(workers, each, beside, nodes))
    asked, have = (", ".join(_shown(of, kind) for kind in need) for of in (need, live))
    spread = ", not as they are asked for" if enough else ""
    return f"waiting for {asked}: the cluster has {have} now{spread}, and its autoscaler may add nodes"


def _may_be_freed(each: Mapping[str, float], nodes: Sequence[Mapping[str, float]], live: Mapping[str, float]) -> bool:
    """Whether others hold what a worker would find place in: an autoscaler counts only what is free."""
    free: dict[str, float] = ray.available_resources()
    held = any(free.get(kind, 0) < live.get(kind, 0) for kind in each)
    return held and any(_places(node, each) for node in nodes)


def _too_much(workers: int, each: Mapping[str, float], beside: float, nodes: Sequence[Mapping[str, float]]) -> str:
    asked, reading = _named(each, each), f" and {ceil(beside)} CPUs to read" if beside else ""
    there = " or ".join(sorted({_named(node, each) for node in nodes})) or "nothing"
    return (
        f"{workers} workers need {asked} each on one node{reading}: a node has {there}, and the autoscaler has no "
        "nodes to add that would hold them"
    )


def _require_totals(workers: int, need: Mapping[str, float], live: Mapping[str, float], beside: float) -> None:
    for kind, amount in need.items():
        if live.get(kind, 0) < amount:
            reading = f", {ceil(beside)} of them to read" if beside and kind == "CPU" else ""
            raise ClusterError(
                f"{workers} workers need {_shown(need, kind)}{reading}, and the cluster can have {live.get(kind, 0):g}"
            )


def cpus_here() -> int:
    """CPUs of this process's node, as Ray and the machine count them."""
    node = ray.get_runtime_context().get_node_id()
    counted = next((there["Resources"].get("CPU", 0) for there in ray.nodes() if there["NodeID"] == node), 0)
    return max(1, min(int(counted) or 1, os.cpu_count() or 1))


def nodes_there() -> list[Nodes]:
    """The nodes of the cluster as it is, by their CPUs."""
    sizes = Counter(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return [Nodes(count, cpus) for cpus, count in sizes.items()]


def _require_places(workers: int, each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse workers that fit on no node, or that the nodes cannot all hold.

    Args:
        workers: how many, all at once.
        each: CPU, GPU … that one of them takes.
        nodes: what each node has.

    Raises:
        ClusterError: names what is asked for and what is there.
    """
    asked = _named(each, each)
    if not any(_places(node, each) for node in nodes):
        nodes_have = " or ".join(sorted({_named(node, each) for node in nodes})) or "nothing"
        raise ClusterError(f"a worker needs {asked} on one node, and a node has {nodes_have}")
    if (places := sum(_places(node, each) for node in nodes)) < workers:
        raise ClusterError(f"{workers} workers need {asked} each on one node, and the nodes have room for {places:g}")


def _places(node: Mapping[str, float], each: Mapping[str, float]) -> float:
    """Workers that a node can hold, in whole."""
    return min(node.get(kind, 0) // amount for kind, amount in each.items())


def _named(node: Mapping[str, float], each: Mapping[str, float]) -> str:
    return " and ".join(_shown(node, kind) for kind in each)


def _shown(of: Mapping[str, float], kind: str) -> str:
    """An amount; CPUs in whole, since what is set aside for an engine may end in a part of one."""
    amount = of.get(kind, 0)
    return f"{ceil(amount) if kind == 'CPU' else amount:g} {kind}s"


def require_shared(places: Iterable[str | None], shared: bool) -> None:
    """Refuse a path where several nodes work, or will, and nobody said that all of them see it.

    Args:
        places: sources, outputs, and what manifests and lists name; a list itself (@FILE) is the driver's.
        shared: whether somebody did.

    Raises:
        UsageError: names the first path.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())
    if shared or (nodes < 2 and not autoscaler.is_there()):
        return
    several = f"has {nodes} nodes" if nodes > 1 else "may add nodes"
    for local in (place for place in places if place and not place.startswith("@") and not is_address(place)):
        raise UsageError(
            f"{local} is a path, and this cluster {several} with disks of their own: give an address such as "
            "s3://bucket/folder, or --shared if every node mounts it there"
        )
