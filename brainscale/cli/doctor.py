"""The command `doctor`: what a machine or cluster is, and what to set."""

import json

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors
from brainscale.config.environment import surrounding_ray


@click.command("doctor")
@click.option("--no-speed", is_flag=True, help="Do not measure speeds, which takes most of the time.")
@options.json
@options.address
@handle_errors
def doctor_command(no_speed: bool, as_json: bool, address: str | None, no_wait: bool) -> None:
    """Examine this machine or a cluster: hardware, exactness of training, speed, and what to set.

    A tiny model is trained on 1, 2 and 4 workers and on each GPU; the weights must be equal to the bit. Nothing else
    should run meanwhile. The output names no machine.

    Example: brainscale doctor --address http://127.0.0.1:8265
    """
    if address:
        options.run_as_job(address, no_wait, "doctor", {"speed": not no_speed}, as_json)
    from brainscale.cli.progress import show_progress
    from brainscale.training.diagnosis_text import format_diagnosis
    from brainscale.training.doctor import diagnose_cluster, diagnose_machine

    with show_progress() as display:
        if surrounding_ray():  # inside a job, or on nodes that a scheduler started
            display.announce("Examining this cluster")
            from brainscale.cluster.session import session

            with session():
                diagnosis = diagnose_cluster(speed=not no_speed)
        else:
            display.announce("Examining this machine")
            diagnosis = diagnose_machine(speed=not no_speed)
    click.echo(json.dumps(diagnosis.to_json(), indent=2) if as_json else format_diagnosis(diagnosis))
