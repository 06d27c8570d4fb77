"""Ask Ray's autoscaler whether it can add nodes: Ray does not publish which nodes it could add."""

import time
from collections.abc import Mapping, Sequence

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from brainscale.cluster.ray_private import autoscaler_status, has_autoscaler

TIMEOUT_S = 60.0  # an autoscaler that starts together with its head may take this long to answer
POLL_S = 0.2


def is_available() -> bool:
    """Return whether the cluster has an autoscaler that can be asked: version 2 of Ray's."""
    return has_autoscaler()


def would_hold(bundles: Sequence[Mapping[str, float]]) -> bool | None:
    """Return whether the cluster can hold all bundles at once, on its free nodes or on nodes that can be added.

    If it can, the autoscaler starts the missing nodes; otherwise it starts none.

    Args:
        bundles: resources (CPU, GPU, …), each needed on one node.

    Returns:
        None if no autoscaler answers.
    """
    if not is_available():
        return None
    group = placement_group([dict(bundle) for bundle in bundles])
    try:
        return _answer(group)
    finally:
        remove_placement_group(group)


def _answer(group: PlacementGroup) -> bool | None:
    """Wait until the autoscaler has seen a group, and return whether it can hold the group."""
    deadline, asked_version = time.monotonic() + TIMEOUT_S, None
    while time.monotonic() < deadline:
        if group.wait(0):
            return True
        status = autoscaler_status()
        if asked_version is None and _mention(status.pending, group):
            asked_version = status.asked_version
        elif asked_version is not None and status.answered_version > asked_version:
            return not _mention(status.infeasible, group)
        time.sleep(POLL_S)
    return None


def _mention(requests: Sequence[str], group: PlacementGroup) -> bool:
    return any(group.id.hex() in request for request in requests)
