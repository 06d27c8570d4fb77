"""Entry point on the cluster of `brainscale score --address`."""

from typing import Any

from brainscale.cli.options import notice_if_complete
from brainscale.cli.progress import show_progress
from brainscale.cluster.job_main import run_job
from brainscale.logs import notice
from brainscale.scoring.single_file import score_to


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Score the sources; return the counts and the output folder or file."""
    fail_above = request.pop("fail_above")
    with show_progress() as display:
        scores = score_to(**request, on_start=display.start_scoring, on_part=display.advance_scoring, on_notice=notice)
    notice_if_complete(scores.progress is None, request["out"], scores.files_not_in_it)
    scores.require_few_errors(fail_above)
    return {"scores": request["out"], **scores.to_json()}


if __name__ == "__main__":
    run_job(main)
