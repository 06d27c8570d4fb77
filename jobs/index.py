"""What the cluster runs for `brainscale index --address`."""

from typing import Any

from brainscale.cluster import run_job
from brainscale.commands.options import say
from brainscale.config import parse
from brainscale.inventory import take


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Index; the summary of the manifest, and its place."""
    return take(**request | {"config": parse(request["config"])}, say=say)


if __name__ == "__main__":
    run_job(main)
