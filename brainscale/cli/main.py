"""The command line: read the arguments, call one function, print its result."""

import os

import click

from brainscale import logs
from brainscale.cli import doctor, indexing, jobs, models, scoring, splitting
from brainscale.cli.console import Group
from brainscale.version import __version__


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brainscale", help="Show the version and exit.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar=logs.VARIABLE,
    show_envvar=True,
    default="text",
    is_eager=True,  # errors in the rest of the arguments are written in this format too
    expose_value=False,
    callback=lambda _context, _option, value: os.environ.update({logs.VARIABLE: value}),
    show_default=True,
    help="Format of standard error: text, or one JSON object per line.",
)
def main() -> None:
    """Train, evaluate and apply classifiers that tell brain MRI scans with a tumour from scans without.

    Research use only; not a medical device.

    Example: brainscale demo
    """


for command in (
    *(scoring.demo_command, indexing.index_command, splitting.split_command, splitting.overlap_command),
    *(models.train_command, models.evaluate_command, scoring.score_command),
    *(models.compare_command, models.verify_command, doctor.doctor_command, jobs.jobs_group),
):
    main.add_command(command)
