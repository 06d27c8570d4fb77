"""What the cluster runs for `brainscale index --address`."""

from typing import Any

from brainscale.cli.options import say
from brainscale.cluster.session import run_job
from brainscale.config.sections import parse_config
from brainscale.dataset.inventory import write_index


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Index; the summary of the manifest, and its place."""
    return write_index(**request | {"config": parse_config(request["config"])}, say=say)


if __name__ == "__main__":
    run_job(main)
