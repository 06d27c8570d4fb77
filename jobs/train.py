"""Entry point on the cluster of `brainscale train --address`."""

from collections.abc import Mapping
from typing import Any

from brainscale.cli.options import notice_if_complete
from brainscale.cli.progress import show_progress
from brainscale.cluster.job_main import run_job
from brainscale.config.files import parse_config
from brainscale.evaluation.cross_validation import cross_validate
from brainscale.logs import notice
from brainscale.training.arguments import find_finished
from brainscale.training.driver import train_model


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train or cross-validate a model; return the facts of the finished run and its folder."""
    config = parse_config(request["config"])
    if request["folds"] is not None or request["folds_by"] is not None:
        names = ("data", "out", "folds", "folds_by", "repeats", "parallel_folds")
        arguments = {name: request[name] for name in names}
        with show_progress():
            result = cross_validate(**arguments, config=config, on_notice=notice)
        return {"out": request["out"], **result.to_json(), "text": result.to_text()}
    if (finished := find_finished(request["data"], request["out"], config, notice)) is not None:
        notice_if_complete(True, request["out"])
        return {"run": request["out"], **finished.facts()}
    with show_progress() as display:

        def on_epoch(row: Mapping[str, Any]) -> None:
            display.show_epoch(row, config.train.epochs)

        run = train_model(request["data"], request["out"], config, on_epoch, notice, request["tracking"])
    return {"run": request["out"], **run.facts()}


if __name__ == "__main__":
    run_job(main)
