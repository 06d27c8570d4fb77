"""A provider for Ray's cluster launcher that starts a node on demand if AWS has no spot capacity.

Ray 2.60 cannot do this itself. Its autoscaler v2 skips a node type that stays pending (ALLOCATION_TIMEOUT), but not one
that AWS refuses (ALLOCATION_FAILED), and so it would request spot instances for ever. cluster.yaml names this provider.

Tried with Ray 2.60.0. Ray's AWS provider is private, but there is no public one to build on. This file alone is copied
to the head, so it imports nothing from brainscale.
"""

from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

NO_SPOT = {"InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow"}  # error codes of EC2
MARKET = "InstanceMarketOptions"


class SpotFirst(AWSNodeProvider):
    """Ray's AWS provider; it starts a node on demand if no availability zone has spot capacity."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start nodes.

        Args:
            node_config: arguments of EC2's RunInstances, from cluster.yaml.
            tags: tags that Ray sets.
            count: maximum number of nodes.

        Returns:
            Node id → instance.

        Raises:
            NodeLaunchException: EC2 refused for another reason, or has no on-demand capacity either.
        """
        try:
            return dict(super().create_node(node_config, tags, count))
        except NodeLaunchException as refusal:
            if refusal.category not in NO_SPOT or MARKET not in node_config:
                raise
        on_demand = {key: value for key, value in node_config.items() if key != MARKET}
        return dict(super().create_node(on_demand, tags, count))
