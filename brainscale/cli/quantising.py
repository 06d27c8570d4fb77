"""The command that prepares a run for scoring in int8."""

import shlex

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import print_next
from brainscale.logs import notice


@click.command("quantize")
@click.argument("run", metavar="RUN")
@options.json
@handle_errors
def quantize_command(run: str, as_json: bool) -> None:
    """Make the int8 form of a run's model, for `score --precision int8` on a CPU, and check it.

    It is calibrated on training samples and compared with float32 on the validation split: the AUROC, the predictions
    that change and the largest change of a probability. If it differs too much, it is refused, and nothing is kept.

    Example: brainscale quantize runs/first
    """
    load_arrow()
    from brainscale.cli.progress import show_progress
    from brainscale.models.shipped import locate_model, make_model_absolute
    from brainscale.training.arguments import require_quantisable

    folder = locate_model(make_model_absolute(run))
    require_quantisable(folder)
    with show_progress() as display:
        display.announce(f"Quantising {run}")
        from brainscale.training.quantising import quantise_run  # here: torch takes seconds to load

        record = quantise_run(folder, notice)
    print_facts({"run": run, **record.model_dump(mode="json")}, as_json)
    print_next(f"brainscale score {shlex.quote(run)} FOLDER --out scores --precision int8")
