"""How an autoscaler starts nodes here: Ray's own stand-in for a cloud, each node with a folder of its own."""

import tempfile
from functools import partial
from typing import Any
from unittest.mock import patch

from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class OnThisMachine(FakeMultiNodeProvider):
    """Nodes that shared the head's folder would fetch a job's code into it anew, under the job's feet."""

    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        own = tempfile.mkdtemp(dir=self.provider_config["folder"])
        with patch("ray._private.parameter.RayParams", partial(RayParams, temp_dir=own)):
            super()._create_node_with_resources_and_labels(*arguments)
