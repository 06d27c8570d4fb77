"""Options that several commands share, and running a command as a job on a cluster."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn

import click

from brainscale import logs
from brainscale.cli.console import print_facts
from brainscale.cli.next_steps import print_next
from brainscale.errors import ClusterError
from brainscale.logs import notice

if TYPE_CHECKING:
    from brainscale.cluster.jobs import Client

ADDRESS = "BRAINSCALE_ADDRESS"
PER_GPU_OR_NODE = "one for each GPU, or for each node if there are no GPUs"
json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
workers = click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default=PER_GPU_OR_NODE,
    help="Maximum number of engines that score at the same time.",
)
shard_rows = click.option(
    "--shard-rows",
    type=click.IntRange(1),
    metavar="N",
    show_default="1,000,000",
    help="Rows of a shard; a manifest of more rows is written as a folder of shards.",
)
shared = click.option(
    "--shared",
    is_flag=True,
    envvar="BRAINSCALE_SHARED_PATHS",
    show_envvar=True,
    help="Allow local paths on a cluster whose nodes all mount them.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace an output that this command did not make.")
dry_run = click.option(
    "--dry-run",
    is_flag=True,
    help="Only print what would be read, used and written, and about how long it would take.",
)
unit = click.option(
    "--unit",
    type=click.Choice(["slice", "scan", "patient"]),
    default="slice",
    show_default=True,
    help="Unit of decision: each slice, each scan (series or volume), or each patient.",
)
match = click.option(
    "--match",
    multiple=True,
    metavar="COLUMN",
    help="Column of the manifest that samples with and without a tumour are matched on, so that it cannot explain the "
    "metrics. Can be given several times, with one column of numbers at most.",
)
show_burned_in = click.option(
    "--show-burned-in",
    is_flag=True,
    help="Also show pictures of samples whose pixels may show text, such as a name.",
)
allow_edited_model = click.option(
    "--allow-edited-model",
    is_flag=True,
    help="Use a model whose model.json was edited, which marks every output.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Precision: bf16 for a GPU, or int8 for a CPU, which `brainscale quantize` prepares.",
)
engine = click.option(
    "--engine", default="auto", show_default=True, metavar="NAME", help="Inference engine: auto, onnx or torch."
)
server = click.option(
    "--address", metavar="URL", envvar=ADDRESS, show_envvar=True, help="URL of the cluster's Jobs server."
)
_job_server = click.option(
    "--address",
    metavar="URL",
    envvar=ADDRESS,
    show_envvar=True,
    help="Run as a job on the Ray cluster with this Jobs server.",
)
_no_wait = click.option("--no-wait", is_flag=True, help="With --address: print the job's id and do not wait for it.")


def address(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--address` and `--no-wait` to a command."""

    @wraps(command)
    def run(*args: Any, address: str | None, no_wait: bool, **kwargs: Any) -> Any:
        if no_wait and not address:
            raise click.UsageError(f"--no-wait needs --address: give the URL of the Jobs server, or set {ADDRESS}")
        return command(*args, address=address, no_wait=no_wait, **kwargs)

    return _job_server(_no_wait(run))


def notice_if_complete(complete: bool, out: str, without_scores: int | None = None) -> None:
    """Tell the user if the output was complete before the command started.

    Args:
        complete: whether it was.
        out: the output.
        without_scores: number of files of the sources that it does not hold.
    """
    if complete and without_scores:
        notice(f"Note: {out} is complete without {without_scores:,} file(s) of these sources: --update scores them")
    elif complete:
        notice(f"{out} was already complete: nothing to do")


def make_absolute_output(location: str) -> str:
    """Return the absolute form of an output path; the slash that marks a folder stays at its end."""
    from brainscale.storage.remote import make_absolute

    absolute = make_absolute(location)
    return f"{absolute}/" if location.endswith("/") and not absolute.endswith("/") else absolute


def run_as_job(
    address: str, no_wait: bool, command: str, request: dict[str, Any], as_json: bool, then: str | None = None
) -> NoReturn:
    """Submit a command as a job, follow it, and exit with its status.

    Args:
        address: URL of the Jobs server.
        no_wait: whether to print the job's id and exit at once.
        command: name of the command.
        request: arguments of the command, as JSON.
        as_json: whether to print the result as JSON.
        then: what comes next, if the job succeeds.
    """
    from brainscale.cluster import jobs

    client = jobs.connect(address)
    live = sys.stderr.isatty() and not no_wait  # live progress is drawn from structured messages
    job = jobs.submit(client, command, request, "json" if live or logs.is_structured() else "text")
    if no_wait:
        click.echo(job)
        sys.exit(0)
    notice(f"submitted job {job}")
    follow_job(address, client, job, as_json, then)


def follow_job(address: str, client: "Client", job: str, as_json: bool, then: str | None = None) -> NoReturn:
    """Show a job as if it ran here, and exit with its status.

    Ctrl-C leaves the job running, which is no error; on a terminal, it asks whether to stop the job too.

    Args:
        address: URL of the Jobs server.
        client: connection to that server.
        job: id of the job.
        as_json: whether to print the result as JSON.
        then: what comes next, if the job succeeds.

    Raises:
        ClusterError: the job failed without a result, or the user stopped it.
    """
    from brainscale.cli.progress import show_job_log
    from brainscale.cluster import jobs

    try:
        with show_job_log() as show:
            outcome = jobs.follow(client, job, show)
    except KeyboardInterrupt:
        if _wants_to_stop():
            raise ClusterError(f"job {job} {jobs.stop(client, job)}; run the same command again to resume") from None
        arguments = f"{job} --address {address}"
        notice(
            f"the job goes on: follow it again with `brainscale jobs logs {arguments} --follow`, or stop it with "
            f"`brainscale jobs stop {arguments}`"
        )
        sys.exit(0)
    if outcome.result is not None:
        text = outcome.result.pop("text", None)
        if text and not as_json:
            click.echo(text)
        else:
            print_facts(outcome.result, as_json)
    if outcome.status == 0:
        print_next(then)
    sys.exit(outcome.status)


def _wants_to_stop() -> bool:
    """Ask the user, if there is a terminal; a second Ctrl-C means no."""
    if not sys.stdin.isatty():
        return False
    try:
        return click.confirm("\nStop the job too?", default=False, err=True)
    except click.Abort:
        return False
