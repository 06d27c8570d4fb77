"""The command line: read the arguments, call one function, print its result."""

import click

from brainscale.cli import (
    configs,
    doctor,
    ensembling,
    evaluating,
    indexing,
    jobs,
    models,
    overlapping,
    predict,
    quantising,
    reporting,
    results,
    scoring,
    splitting,
    training,
)
from brainscale.cli.console import Group, log_format
from brainscale.version import __version__


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brainscale", help="Show the version and exit.")
@log_format
def main() -> None:
    """Train, evaluate and apply classifiers that tell brain MRI scans with a tumour from scans without.

    Research use only; not a medical device.

    Example: brainscale demo
    """


for command in (
    *(scoring.demo_command, indexing.index_command, splitting.split_command, overlapping.overlap_command),
    *(training.train_command, evaluating.evaluate_command, scoring.score_command, predict.predict_command),
    *(evaluating.compare_command, training.verify_command, results.results_command, ensembling.ensemble_command),
    *(reporting.report_command, models.models_command, doctor.doctor_command, quantising.quantize_command),
    *(configs.config_group, jobs.jobs_group),
):
    main.add_command(command)
