"""Dry runs of commands: print what would be done."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from brainscale import logs
from brainscale.cli import options
from brainscale.errors import UsageError
from brainscale.logs import notice

if TYPE_CHECKING:
    from brainscale.config.sections import Config


def _refuse_address(address: str | None) -> None:
    if address:
        raise UsageError(f"--dry-run plans for this machine: remove --address, or unset {options.ADDRESS}")


def _show(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    logs.log("done", facts=facts)
    click.echo(json.dumps(facts, indent=2) if as_json else text)


def show_training_plan(request: Mapping[str, Any], config: "Config", address: str | None, as_json: bool) -> None:
    """Print the plan of a training or a cross-validation.

    Args:
        request: arguments of the command, by name.
        config: configuration of the run.
        address: URL of a Jobs server, which is refused.
        as_json: whether to print JSON.

    Raises:
        BrainscaleError: the command itself would refuse these arguments.
    """
    _refuse_address(address)
    if request["folds"] is not None or request["folds_by"] is not None:
        from brainscale.evaluation.arguments import check_cross_validation

        asked = {name: request[name] for name in ("data", "out", "folds", "folds_by", "repeats")}
        check_cross_validation(**asked)
        from brainscale.evaluation.plan import plan_cross_validation  # here: torch takes seconds to load

        folded = plan_cross_validation(**{**request, "config": config}, on_notice=notice)
        _show(folded.to_json(), folded.to_text(), as_json)
        return
    from brainscale.training.plan import plan_training

    plan = plan_training(request["data"], request["out"], config, notice)
    from brainscale.training.plan_text import format_training_plan

    _show(plan.to_json(), format_training_plan(plan), as_json)


def show_scoring_plan(request: Mapping[str, Any], address: str | None, as_json: bool) -> None:
    """Print the plan of a scoring job.

    Args:
        request: arguments of the command, by name.
        address: URL of a Jobs server, which is refused.
        as_json: whether to print JSON.

    Raises:
        BrainscaleError: the command itself would refuse these arguments.
    """
    _refuse_address(address)
    from brainscale.scoring.plan import plan_scoring
    from brainscale.scoring.plan_text import format_scoring_plan

    plan = plan_scoring(**request, on_notice=notice)
    _show(plan.to_json(), format_scoring_plan(plan), as_json)
