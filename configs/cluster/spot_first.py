"""AWS for Ray's cluster launcher, with a way out when there is no spot: the same node on demand.

Ray 2.60 has none on AWS. Its autoscaler v2 passes over a node type that stayed pending (ALLOCATION_TIMEOUT), not one
that AWS refused (ALLOCATION_FAILED): it would ask for spot again and again. Named in cluster.yaml's `provider`.

Tried with Ray 2.60.0, whose AWS provider is private: there is no public one to build on. This file is copied to the
head alone, so it imports nothing of brainscale.
"""

from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

NO_SPOT = {"InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow"}  # error codes of EC2
MARKET = "InstanceMarketOptions"


class SpotFirst(AWSNodeProvider):
    """Ray's AWS provider; a spot node that no availability zone has comes on demand."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start nodes.

        Args:
            node_config: arguments of EC2's RunInstances, as in cluster.yaml.
            tags: Ray's own.
            count: how many, at most.

        Returns:
            Instance of each node id.

        Raises:
            NodeLaunchException: EC2 refused for another reason, or has none on demand either.
        """
        try:
            return dict(super().create_node(node_config, tags, count))
        except NodeLaunchException as refusal:
            if refusal.category not in NO_SPOT or MARKET not in node_config:
                raise
        on_demand = {key: value for key, value in node_config.items() if key != MARKET}
        return dict(super().create_node(on_demand, tags, count))
