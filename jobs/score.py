"""What the cluster runs for `brainscale score --address`."""

from typing import Any

from brainscale.cli.options import say
from brainscale.cli.progress import Bar
from brainscale.cluster.session import run_job
from brainscale.scoring.bulk import score_files


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Score; the counts, and where the parts are."""
    with Bar() as bar:
        facts = score_files(**request, on_start=bar.start, on_part=bar.advance, on_notice=say)
    return {"scores": request["out"], **facts}


if __name__ == "__main__":
    run_job(main)
