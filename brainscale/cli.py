"""The command line: parse, call one function, print."""

import click

from brainscale import __version__
from brainscale.commands import data, jobs, models, scoring
from brainscale.console import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brainscale")
def main() -> None:
    """Train, evaluate and run classifiers that tell brain MRI scans with a tumour from scans without.

    Research use only; not a medical device.
    """


for command in (
    *(scoring.demo, data.index, data.split, data.overlap),
    *(models.train, models.evaluate, scoring.score, models.compare, models.verify, jobs.jobs),
):
    main.add_command(command)
