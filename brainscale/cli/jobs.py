"""Commands on the jobs of a cluster: list, logs, stop."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from brainscale.cli import options
from brainscale.cli.console import Group, handle_errors
from brainscale.errors import UsageError
from brainscale.formatting import format_duration
from brainscale.logs import is_structured, notice

if TYPE_CHECKING:
    from brainscale.cluster.jobs import JobRecord


@click.group("jobs", cls=Group)
def jobs_group() -> None:
    """List, follow and stop jobs on a cluster.

    Example: brainscale jobs list --address http://127.0.0.1:8265
    """


@jobs_group.command("list")
@options.server
@options.json
@handle_errors
def list_command(address: str | None, as_json: bool) -> None:
    """List the jobs that brainscale submitted, the latest first.

    Each line has the job's id, status, the time since its start, how long it took or has been running, and its output.

    Example: brainscale jobs list --address http://127.0.0.1:8265
    """
    from brainscale.cluster.jobs import connect, list_jobs

    jobs = list_jobs(connect(_require_address(address)))
    if as_json:
        click.echo(json.dumps([asdict(job) for job in jobs], indent=2))
        return
    if not jobs:
        notice("no jobs of brainscale on this cluster")
        return
    for line in _format_jobs(jobs):
        click.echo(line)


@jobs_group.command("logs")
@click.argument("job", metavar="ID")
@click.option("--follow", is_flag=True, help="Follow the log until the job ends, and exit with the job's status.")
@options.server
@options.json
@handle_errors
def logs_command(job: str, follow: bool, address: str | None, as_json: bool) -> None:
    """Print the log of a job, or follow it until the job ends.

    Example: brainscale jobs logs brainscale-train-20261124-101500-0f9a3c --follow
    """
    from brainscale.cli.progress import format_log_line
    from brainscale.cluster.jobs import connect, read_log

    address = _require_address(address)
    client = connect(address)
    if follow:
        options.follow_job(address, client, job, as_json)
    for line in read_log(client, job):
        text = line if is_structured() else format_log_line(line)
        if text is not None:
            click.echo(text)


@jobs_group.command("stop")
@click.argument("job", metavar="ID")
@options.server
@handle_errors
def stop_command(job: str, address: str | None) -> None:
    """Stop a job and wait until it has ended.

    To resume the work, run the command that submitted the job again.

    Example: brainscale jobs stop brainscale-train-20261124-101500-0f9a3c
    """
    from brainscale.cluster.jobs import connect, stop

    click.echo(f"{job} {stop(connect(_require_address(address)), job)}")


def _require_address(address: str | None) -> str:
    if not address:
        raise UsageError(
            f"no --address: give the URL of the Jobs server, such as http://127.0.0.1:8265, or set {options.ADDRESS}"
        )
    return address


def _format_jobs(jobs: "Sequence[JobRecord]") -> list[str]:
    """Return a table of jobs: a header, and a line for each."""
    now = datetime.now(UTC)
    rows = [("job", "status", "started", "duration", "output")]
    for job in jobs:
        age = None if job.started is None else (now - datetime.fromisoformat(job.started)).total_seconds()
        started = "–" if age is None else f"{format_duration(max(age, 0))} ago"
        duration = "–" if job.seconds is None else format_duration(job.seconds)
        rows.append((job.id, job.status, started, duration, job.out or "–"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
