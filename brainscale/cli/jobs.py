"""Commands on the jobs of a cluster: list, logs, stop."""

import json
from typing import Any

import click

from brainscale.cli import options
from brainscale.cli.console import Group, common
from brainscale.errors import UsageError
from brainscale.logs import notice

server = click.option(
    "--address", metavar="URL", envvar=options.ADDRESS, show_envvar=True, help="The cluster's Jobs server."
)


@click.group(cls=Group)
def jobs() -> None:
    """List, follow and stop what runs on a cluster.

    Example: brainscale jobs list --address http://127.0.0.1:8265
    """


@jobs.command("list")
@server
@options.json
@common
def list_jobs(address: str | None, as_json: bool) -> None:
    """List the jobs that brainscale sent, the latest first.

    Example: brainscale jobs list --address http://127.0.0.1:8265
    """
    from brainscale.cluster.jobs import connect, list_jobs

    found = list_jobs(connect(_given(address)))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for job in found:
        click.echo("  ".join(_cell(job[name]) for name in ("id", "status", "started", "seconds", "out")))
    if not found:
        notice("no job of brainscale is there")


@jobs.command()
@click.argument("job", metavar="ID")
@click.option("--follow", is_flag=True, help="Go on until the job ends, and leave with its exit status.")
@server
@options.json
@common
def logs(job: str, follow: bool, address: str | None, as_json: bool) -> None:
    """Print a job's log.

    Example: brainscale jobs logs brainscale-train-20261124-101500-0f9a3c --follow
    """
    from brainscale.cli.progress import as_text
    from brainscale.cluster.jobs import connect, log_of
    from brainscale.logs import is_structured

    client = connect(_given(address))
    if follow:
        options.follow(_given(address), client, job, as_json)
    for line in log_of(client, job).splitlines():
        if (shown := line if is_structured() else as_text(line)) is not None:
            click.echo(shown)


@jobs.command()
@click.argument("job", metavar="ID")
@server
@common
def stop(job: str, address: str | None) -> None:
    """Stop a job and wait until it has ended; the command that sent it goes on where it was.

    Example: brainscale jobs stop brainscale-train-20261124-101500-0f9a3c
    """
    from brainscale.cluster.jobs import connect
    from brainscale.cluster.jobs import stop as end

    click.echo(f"{job} {end(connect(_given(address)), job)}")


def _given(address: str | None) -> str:
    if not address:
        raise UsageError(
            f"--address says where the Jobs server is, such as http://127.0.0.1:8265; or set {options.ADDRESS}"
        )
    return address


def _cell(value: Any) -> str:
    return "–" if value is None or value == "" else str(value)
