"""Entry point on the cluster of `brainscale evaluate --address`."""

from typing import Any

from brainscale.cli.progress import show_progress
from brainscale.cluster.job_main import run_job
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.logs import notice


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the model; return the metrics and the output folder."""
    with show_progress():
        return evaluate_model(**request, on_notice=notice).to_json()


if __name__ == "__main__":
    run_job(main)
