"""What Ray's autoscaler would start nodes for. Ray tells nobody its kinds of nodes, so the autoscaler is asked."""

import time
from collections.abc import Mapping, Sequence

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from brainscale.cluster.ray_private import autoscaler_status, has_autoscaler

PATIENCE_S = 60.0  # seconds that an autoscaler which starts beside its head may take to answer
LOOK_S = 0.2  # seconds between two looks


def is_there() -> bool:
    """Whether the cluster has an autoscaler that can be asked, Ray's second."""
    return has_autoscaler()


def would_hold(bundles: Sequence[Mapping[str, float]]) -> bool | None:
    """Whether the nodes' free room, and nodes that may be added, hold all bundles at once.

    If so the autoscaler starts what is missing; if not, nothing.

    Args:
        bundles: CPU, GPU … that one node has to give, of each.

    Returns:
        None where no autoscaler answers.
    """
    if not is_there():
        return None
    group = placement_group([dict(bundle) for bundle in bundles])
    try:
        return _verdict(group)
    finally:
        remove_placement_group(group)


def _verdict(group: PlacementGroup) -> bool | None:
    """What the autoscaler thinks of a group, once it has seen it."""
    deadline, asked = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < deadline:
        if group.wait(0):
            return True
        status = autoscaler_status()
        if asked is None and _names(group, status.pending):
            asked = status.asked_version
        elif asked is not None and status.answered_version > asked:
            return not _names(group, status.infeasible)
        time.sleep(LOOK_S)
    return None


def _names(group: PlacementGroup, requests: Sequence[str]) -> bool:
    return any(group.id.hex() in request for request in requests)
