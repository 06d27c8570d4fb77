"""What a cluster can give, now or once it has grown."""

from collections.abc import Iterable

import ray
from ray._private.state import state

from brainscale.errors import UsageError
from brainscale.storage import is_address


def capacity() -> dict[str, float]:
    """CPU, GPU … that are there, or that the autoscaler may start.

    A cluster that scales from zero has nothing until a job asks; what it can never have is refused at once.
    """
    live: dict[str, float] = ray.cluster_resources()
    limits = state.get_max_resources_from_cluster_config() or {}
    return {kind: max(live.get(kind, 0.0), float(limits.get(kind, 0))) for kind in {**live, **limits}}


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
