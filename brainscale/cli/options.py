"""What several commands share: options, paths as a cluster sees them, jobs."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import click

from brainscale import logs
from brainscale.cli.console import print_facts
from brainscale.errors import ClusterError
from brainscale.logs import notice

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
ADDRESS = "BRAINSCALE_ADDRESS"
_server = click.option(
    "--address",
    metavar="URL",
    envvar=ADDRESS,
    show_envvar=True,
    help="Run as a job on this Ray cluster (its Jobs server).",
)
_no_wait = click.option("--no-wait", is_flag=True, help="With --address: print the job's id and leave.")
workers = click.option(
    "--workers", type=click.IntRange(1), help="Engines side by side.  [default: one for each GPU, or else each node]"
)
shared = click.option(
    "--shared", is_flag=True, envvar="BRAINSCALE_SHARED_PATHS", help="Paths are on storage that every node mounts."
)
engine = click.option("--engine", default="auto", show_default=True, help="auto, onnx or torch.")


def address(command: Callable[..., Any]) -> Callable[..., Any]:
    """--address and --no-wait."""

    @wraps(command)
    def run(*args: Any, address: str | None, no_wait: bool, **kwargs: Any) -> Any:
        if no_wait and not address:
            raise click.UsageError(f"--no-wait goes with --address, which says where the job runs; or set {ADDRESS}")
        return command(*args, address=address, no_wait=no_wait, **kwargs)

    return _server(_no_wait(run))


def notice_if(complete: bool, out: str) -> None:
    """Say that there was nothing to do."""
    if complete:
        notice(f"{out} was complete already: nothing was done")


def submit(address: str, no_wait: bool, command: str, request: dict[str, Any], as_json: bool) -> NoReturn:
    """Run the command as a job and leave with its exit status."""
    from brainscale.cluster import jobs

    client = jobs.connect(address)
    live = sys.stderr.isatty() and not no_wait  # what is shown there is made of objects
    job = jobs.submit(client, command, request, "json" if live or logs.is_structured() else "text")
    if no_wait:
        click.echo(job)
        sys.exit(0)
    notice(f"job {job}")
    follow(address, client, job, as_json)


def follow(address: str, client: "JobSubmissionClient", job: str, as_json: bool) -> NoReturn:
    """Show a job as if it ran here, and leave with its exit status; Ctrl-C leaves it running, or stops it if asked."""
    from brainscale.cli.progress import following
    from brainscale.cluster import jobs

    try:
        with following() as show:
            ended = jobs.follow(client, job, show)
    except KeyboardInterrupt:
        if _wants_stop():
            raise ClusterError(f"job {job} {jobs.stop(client, job)}; run the same command again to resume") from None
        at = f"{job} --address {address}"
        raise ClusterError(
            f"the job goes on; `brainscale jobs logs {at} --follow` shows it, `brainscale jobs stop {at}` ends it"
        ) from None
    if ended.result is not None:
        text = ended.result.pop("text", None)
        if text and not as_json:
            click.echo(text)
        else:
            print_facts(ended.result, as_json)
    sys.exit(ended.status)


def _wants_stop() -> bool:
    """Ask, where somebody can answer; another Ctrl-C is no."""
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm("\nStop the job too?", default=False, err=True)
    except click.Abort:
        return False
