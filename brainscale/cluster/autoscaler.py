"""What Ray's autoscaler would start nodes for. Ray tells nobody its kinds of nodes, so the autoscaler is asked."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.core.generated import autoscaler_pb2
from ray.experimental.internal_kv import internal_kv_get_gcs_client
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

MESSAGES: Any = autoscaler_pb2  # made when it is imported
PATIENCE_S = 60.0  # seconds that an autoscaler which starts beside its head may take to answer
LOOK_S = 0.2  # seconds between two looks


def is_there() -> bool:
    """Whether the cluster has an autoscaler that can be asked, Ray's second."""
    return bool(is_autoscaler_v2(fetch_from_server=True, gcs_client=internal_kv_get_gcs_client()))


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
        status = MESSAGES.GetClusterStatusReply.FromString(internal_kv_get_gcs_client().get_cluster_status())
        cluster, thought = status.cluster_resource_state, status.autoscaling_state
        if asked is None and _names(group, cluster.pending_gang_resource_requests):
            asked = cluster.cluster_resource_state_version
        elif asked is not None and thought.last_seen_cluster_resource_state_version > asked:
            return not _names(group, thought.infeasible_gang_resource_requests)
        time.sleep(LOOK_S)
    return None


def _names(group: PlacementGroup, requests: Sequence[Any]) -> bool:
    return any(group.id.hex() in request.details for request in requests)
