"""What the cluster runs for `brainscale evaluate --address`."""

from typing import Any

from brainscale.cli.options import say
from brainscale.cluster.session import run_job
from brainscale.evaluation.evaluator import evaluate_model


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate; the figures, and where the report is."""
    return evaluate_model(**request, on_notice=say)


if __name__ == "__main__":
    run_job(main)
