"""Entry point on the cluster of `brainscale index --address`."""

from typing import Any

from brainscale.cli.progress import show_progress
from brainscale.cluster.job_main import run_job
from brainscale.config.files import parse_config
from brainscale.dataset.indexer import write_index
from brainscale.logs import notice


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Index the sources; return the summary of the manifest and its path."""
    with show_progress():
        return write_index(**request | {"config": parse_config(request["config"])}, on_notice=notice).to_json()


if __name__ == "__main__":
    run_job(main)
