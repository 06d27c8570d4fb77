"""The command report: render report.html again."""

import shlex

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import print_next
from brainscale.logs import notice


@click.command("report")
@click.argument("evaluation", metavar="RUN|EVALUATION")
@click.option(
    "--model",
    metavar="MODEL",
    show_default="the run that the evaluation is in",
    help="Model that was evaluated, for an evaluation in another place than its run.",
)
@options.json
@handle_errors
def report_command(evaluation: str, model: str | None, as_json: bool) -> None:
    """Render the report of an evaluation again, or of every evaluation in a run, from the tables that are there.

    Nothing is predicted, and it is no new look at the test set. Pictures are drawn from the images; the report says how
    many of them are gone or have changed.

    Example: brainscale report runs/first
    """
    load_arrow()
    from brainscale.cli.progress import show_progress
    from brainscale.evaluation.redrawing import redraw_reports
    from brainscale.models.shipped import make_model_absolute

    with show_progress() as display:
        display.announce(f"Rendering the report of {evaluation}")
        reports = redraw_reports(evaluation, model=model and make_model_absolute(model), on_notice=notice)
    if as_json:
        print_facts({"reports": reports}, as_json)
    else:
        for report in reports:
            click.echo(report)
    print_next(f"open {shlex.quote(str(reports[0]))}")
