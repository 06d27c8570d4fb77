"""What a cluster has to give, now or after its autoscaler has added nodes."""

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

REMEDY = "ask for fewer or smaller workers, or add nodes"


def can_have_gpus(workers: int = 1, each: float = 1.0) -> bool:
    """Return whether the cluster has GPUs for the workers, or an autoscaler that can add them.

    Args:
        workers: number of workers.
        each: GPUs of one worker.
    """
    if ray.cluster_resources().get("GPU", 0) >= workers * each:
        return True
    return _gpus_on_demand(ray.get_runtime_context().gcs_address, workers, each)


@cache
def _gpus_on_demand(cluster: str, workers: int, each: float) -> bool:  # noqa: ARG001 (one answer for each cluster)
    return bool(autoscaler.would_hold([{"GPU": each}] * workers))


def require_capacity(workers: int, each: Mapping[str, float], reading_cpus: float = 0) -> str | None:
    """Refuse workers that the cluster can never hold.

    Args:
        workers: number of workers that run at the same time.
        each: resources (CPU, GPU, …) of one worker, on one node.
        reading_cpus: CPUs for reading, besides the workers.

    Returns:
        A message if the workers must wait for nodes or for other work, otherwise None.

    Raises:
        ClusterError: the cluster can never hold the workers; the message names what is needed and what there is.
    """
    total: dict[str, float] = ray.cluster_resources()
    needed = {kind: workers * amount + (reading_cpus if kind == "CPU" else 0) for kind, amount in each.items()}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    enough = all(total.get(kind, 0) >= amount for kind, amount in needed.items())
    if enough and sum(_worker_count(node, each) for node in nodes) >= workers:
        return None
    bundles = [dict(each)] * workers + ([{"CPU": reading_cpus}] if reading_cpus else [])
    held = autoscaler.would_hold(bundles)
    if held is None:
        _require_totals(workers, needed, total, reading_cpus)
        _require_nodes(workers, each, nodes)
    elif not held and not _may_become_free(each, nodes, total):
        raise ClusterError(_refusal(workers, each, reading_cpus, nodes))
    needed_text, total_text = (", ".join(_amount(amounts, kind) for kind in needed) for amounts in (needed, total))
    spread = ", but not enough on one node" if enough else ""
    hope = "its autoscaler can add nodes" if held else "other work must end first"
    return f"waiting for {needed_text}: the cluster has {total_text} now{spread}; {hope}"


def _may_become_free(
    each: Mapping[str, float], nodes: Sequence[Mapping[str, float]], total: Mapping[str, float]
) -> bool:
    """Return whether other work holds what a worker needs; an autoscaler counts free resources only."""
    free: dict[str, float] = ray.available_resources()
    in_use = any(free.get(kind, 0) < total.get(kind, 0) for kind in each)
    return in_use and any(_worker_count(node, each) for node in nodes)


def _refusal(workers: int, each: Mapping[str, float], reading_cpus: float, nodes: Sequence[Mapping[str, float]]) -> str:
    reading = f", and reading needs {_amount({'CPU': reading_cpus}, 'CPU')}" if reading_cpus else ""
    return (
        f"{_need_on_nodes(workers, each)}{reading}, but a node has {_node_sizes(nodes, each)} and the autoscaler "
        f"cannot add nodes for them: {REMEDY}"
    )


def _require_totals(workers: int, needed: Mapping[str, float], total: Mapping[str, float], reading_cpus: float) -> None:
    for kind, amount in needed.items():
        if total.get(kind, 0) < amount:
            reading = f" ({ceil(reading_cpus)} of them for reading)" if reading_cpus and kind == "CPU" else ""
            raise ClusterError(
                f"{_need(workers)} {_amount(needed, kind)}{reading}, but the cluster has "
                f"{total.get(kind, 0):g}: {REMEDY}"
            )


def count_cpus() -> int:
    """Return the number of CPUs of this process's node: what Ray counts, but no more than the machine has."""
    node_id = ray.get_runtime_context().get_node_id()
    counted = next((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == node_id), 0)
    return max(1, min(int(counted) or 1, os.cpu_count() or 1))


def list_nodes(*, without_gpus: bool = False) -> list[Nodes]:
    """Return the nodes of the cluster as it is now, grouped by their number of CPUs.

    Args:
        without_gpus: whether to leave out the nodes that have GPUs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = Counter(int(node.get("CPU", 0)) for node in nodes if not (without_gpus and node.get("GPU")))
    return [Nodes(count, cpus) for cpus, count in sizes.items()]


def count_cpus_beside_gpu() -> int:
    """Return the number of CPUs that every GPU of the cluster can have on its own node; 1 where there is no GPU yet."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, int(min((node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU")), default=1)))


def _require_nodes(workers: int, each: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse workers that fit on no node, or that the nodes cannot all hold.

    Args:
        workers: number of workers that run at the same time.
        each: resources (CPU, GPU, …) of one worker.
        nodes: resources of each node.

    Raises:
        ClusterError: the nodes cannot hold the workers; the message names what is needed and what there is.
    """
    if not any(_worker_count(node, each) for node in nodes):
        raise ClusterError(
            f"a worker needs {_amounts(each, each)} on one node, but a node has {_node_sizes(nodes, each)}: {REMEDY}"
        )
    if (capacity := sum(_worker_count(node, each) for node in nodes)) < workers:
        raise ClusterError(f"{_need_on_nodes(workers, each)}, but the nodes have room for {capacity:g}: {REMEDY}")


def _worker_count(node: Mapping[str, float], each: Mapping[str, float]) -> float:
    """Return the number of workers that one node can hold."""
    return min(node.get(kind, 0) // amount for kind, amount in each.items())


def _need(workers: int) -> str:
    return "1 worker needs" if workers == 1 else f"{workers} workers need"


def _need_on_nodes(workers: int, each: Mapping[str, float]) -> str:
    return f"{_need(workers)} {_amounts(each, each)} {'' if workers == 1 else 'each '}on one node"


def _node_sizes(nodes: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> str:
    return " or ".join(sorted({_amounts(node, each) for node in nodes})) or "nothing"


def _amounts(resources: Mapping[str, float], each: Mapping[str, float]) -> str:
    return " and ".join(_amount(resources, kind) for kind in each)


def _amount(resources: Mapping[str, float], kind: str) -> str:
    """Return an amount as text; CPUs are rounded up, since Ray may reserve a fraction of one."""
    amount = resources.get(kind, 0)
    amount = ceil(amount) if kind == "CPU" else amount
    return f"{amount:g} {kind}" if amount == 1 else f"{amount:g} {kind}s"


def require_shared(locations: Iterable[str | None], shared: bool) -> None:
    """Refuse a local path if several nodes work, or will, and nobody said that all of them see it.

    Args:
        locations: paths and addresses of sources, outputs and the files in manifests and lists. A list (@FILE) may be
            local, since only the driver reads it.
        shared: whether every node mounts the paths.

    Raises:
        UsageError: one of the locations is a local path; the message names the first.
    """
    nodes = sum(node["Alive"] for node in ray.nodes())
    if shared or (nodes < 2 and not autoscaler.is_available()):
        return
    several = f"has {nodes} nodes" if nodes > 1 else "may add nodes"
    for path in (text for text in locations if text and not text.startswith("@") and not is_address(text)):
        raise UsageError(
            f"{path} is a local path, but this cluster {several} with disks of their own: give an address such as "
            "s3://bucket/folder, or add --shared if every node mounts this path"
        )
