"""What the cluster runs for `brainscale train --address`."""

from typing import Any

from brainscale.cluster import run_job
from brainscale.commands.options import say
from brainscale.config import parse
from brainscale.folds import cross_validate
from brainscale.progress import epochs
from brainscale.train import train


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train or cross-validate; the facts of the finished run, and its place."""
    config = parse(request["config"])
    if request["folds"] is not None:
        facts = cross_validate(
            request["data"], request["out"], config, folds=request["folds"], repeats=request["repeats"], say=say
        )
        return {"out": request["out"], **facts}
    with epochs(config.train.epochs) as (on_epoch, on_notice):
        facts = train(request["data"], request["out"], config, on_epoch, on_notice, request["tracking"])
    return {"run": request["out"], **facts}


if __name__ == "__main__":
    run_job(main)
