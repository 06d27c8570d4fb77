"""What a cluster can give, now or once it has grown."""

import ray
from ray._private.state import state


def capacity() -> dict[str, float]:
    """CPU, GPU … that are there, or that the autoscaler may start.

    A cluster that scales from zero has nothing until a job asks; what it can never have is refused at once.
    """
    live: dict[str, float] = ray.cluster_resources()
    limits = state.get_max_resources_from_cluster_config() or {}
    return {kind: max(live.get(kind, 0.0), float(limits.get(kind, 0))) for kind in {**live, **limits}}
