"""Entry point on the cluster of `brainscale doctor --address`."""

from typing import Any

from brainscale.cluster.job_main import run_job
from brainscale.training.diagnosis_text import format_diagnosis
from brainscale.training.doctor import diagnose_cluster


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Examine the nodes; return what was found, and a page of text."""
    diagnosis = diagnose_cluster(speed=request["speed"])
    return {**diagnosis.to_json(), "text": format_diagnosis(diagnosis)}


if __name__ == "__main__":
    run_job(main)
