"""The command models: a table of the models at hand."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow

if TYPE_CHECKING:
    from brainscale.evaluation.model_list import ListedModel

HEAD = ("model", "network", "classes", "pixels", "MB", "trained on", "epoch", "AUROC (95 % interval)", "notes")
FINGERPRINT = 8
"""Characters of a fingerprint in the table."""


@click.command("models")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@options.json
@handle_errors
def models_command(folders: tuple[str, ...], as_json: bool) -> None:
    """List the models at hand: those that come with brainscale, and the runs and models in folders.

    Without a FOLDER, runs/ and the working directory are searched; folders inside folders are not. The AUROC is that on
    the test split of a model's own data, if it was evaluated there. "Trained on" shows how the
    fingerprint of the training manifest begins.

    Example: brainscale models
    """
    load_arrow()
    from brainscale.evaluation.model_list import list_models

    models = list_models(folders)
    click.echo(json.dumps([model.to_json() for model in models], indent=2) if as_json else format_models(models))


def format_models(models: "Sequence[ListedModel]") -> str:
    """Return models as a table for a terminal; the longest column is last."""
    cells = [HEAD, *(_cells(model) for model in models)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cells(model: "ListedModel") -> tuple[str, ...]:
    from brainscale.formatting import format_number

    auroc = format_number(model.auroc)
    if model.auroc_low is not None and model.auroc_high is not None:
        auroc += f" ({format_number(model.auroc_low)} to {format_number(model.auroc_high)})"
    notes = [
        *(["comes with brainscale, for trying only"] if model.shipped else []),
        *([f"{model.members} members"] if model.members else []),
        *(["model.json was edited"] if model.edited else []),
        *([model.problem] if model.problem else []),
    ]
    return (
        model.model,
        model.network or "–",
        ", ".join(model.classes) or "–",
        format_number(model.image_size),
        f"{model.nbytes / 1e6:.1f}" if model.nbytes else "–",
        model.manifest_sha256[:FINGERPRINT] if model.manifest_sha256 else "–",
        format_number(model.epoch),
        auroc,
        "; ".join(notes),
    )
