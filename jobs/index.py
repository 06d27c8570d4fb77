"""What the cluster runs for `brainscale index --address`."""

from typing import Any

from brainscale.cli.options import say
from brainscale.cluster.session import run_job
from brainscale.config.sections import parse
from brainscale.dataset.inventory import take


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Index; the summary of the manifest, and its place."""
    return take(**request | {"config": parse(request["config"])}, say=say)


if __name__ == "__main__":
    run_job(main)
