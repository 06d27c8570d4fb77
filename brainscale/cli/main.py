"""The command line: parse, call one function, print."""

import os

import click

from brainscale import logs
from brainscale.cli import data, jobs, models, scoring
from brainscale.cli.console import Group
from brainscale.version import __version__


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brainscale")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar=logs.VARIABLE,
    default="text",
    is_eager=True,  # what is wrong with the rest of the line is said in this format too
    expose_value=False,
    callback=lambda _context, _option, value: os.environ.update({logs.VARIABLE: value}),
    show_default=True,
    help="Of standard error: lines for a person, or one JSON object a line.",
)
def main() -> None:
    """Train, evaluate and run classifiers that tell brain MRI scans with a tumour from scans without.

    Research use only; not a medical device.
    """


for command in (
    *(scoring.demo, data.index, data.split, data.overlap),
    *(models.train, models.evaluate, scoring.score, models.compare, models.verify, jobs.jobs),
):
    main.add_command(command)
