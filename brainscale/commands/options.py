"""What several commands share: options, paths as a cluster sees them, jobs."""

import sys
from pathlib import Path
from typing import Any

import click

from brainscale import logs

json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
address = click.option("--address", metavar="URL", help="Run as a job on this Ray cluster (its Jobs server).")
workers = click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Side by side.")
shared = click.option(
    "--shared", is_flag=True, envvar="BRAINSCALE_SHARED_PATHS", help="Paths are on storage that every node mounts."
)
engine = click.option("--engine", default="auto", show_default=True, help="auto, onnx or torch.")


def say(text: str) -> None:
    """A line for a person, on standard error."""
    logs.log("notice", text)


def is_complete(out: str) -> bool:
    """Whether a folder holds finished work."""
    from brainscale.files import read_success
    from brainscale.schema import SUCCESS
    from brainscale.storage import fetched

    with fetched(out, SUCCESS) as folder:
        return read_success(folder) is not None


def say_if(complete: bool, out: str) -> None:
    """Say that there was nothing to do."""
    if complete:
        say(f"{out} was complete already: nothing was done")


def absolute(source: str) -> str:
    """A path that means the same in another process; an address as it is."""
    if source.startswith("@"):
        return f"@{Path(source[1:]).absolute()}"
    return source if "://" in source else str(Path(source).absolute())


def submit(address: str, command: str, request: dict[str, Any]) -> None:
    """Run the command as a job and leave with its exit status."""
    from brainscale import cluster

    sys.exit(cluster.submit(address, command, request, lambda text: click.echo(text, nl=False)))
