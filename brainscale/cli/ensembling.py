"""The command that makes one model of several."""

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import after_training, print_next
from brainscale.logs import notice


@click.command("ensemble")
@click.argument("models", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", required=True, metavar="BUNDLE", help="Folder of the new model.")
@options.json
@handle_errors
def ensemble_command(models: tuple[str, ...], out: str, as_json: bool) -> None:
    """Make one model that averages the probabilities of several runs or models.

    They need the same classes and the same preprocessing. What any of them was trained on counts as seen when the new
    model is evaluated.

    Example: brainscale ensemble runs/a runs/b --out models/both
    """
    load_arrow()
    from brainscale.cli.progress import show_progress
    from brainscale.models.shipped import make_model_absolute
    from brainscale.storage.remote import make_absolute
    from brainscale.training.arguments import check_ensemble

    members, folder = [make_model_absolute(model) for model in models], make_absolute(out)
    check_ensemble(members, folder)
    with show_progress() as display:
        display.announce(f"Making one model of {len(models)}")
        from brainscale.training.ensemble import make_ensemble  # here: torch takes seconds to load

        made = make_ensemble(members, folder, notice)
    print_facts({"model": out, **made.facts()}, as_json)
    print_next(after_training(out))
