"""The commands config show and config new."""

import json

import click

from brainscale.cli import options
from brainscale.cli.console import Group, handle_errors

NAME = click.argument("name", metavar="NAME|FILE", default="brainmrnet")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="section.key=value",
    help="Override a value of the configuration. Can be given several times.",
)


@click.group("config", cls=Group)
def config_group() -> None:
    """Show configurations, or write one to edit.

    Example: brainscale config show brainmrnet_paper
    """


@config_group.command("show")
@NAME
@SET
@options.json
@handle_errors
def show_command(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print every key of a configuration with its value, as `train` would use it.

    Example: brainscale config show brainmrnet_paper --set train.epochs=20
    """
    import yaml

    from brainscale.config.files import load_config

    values = load_config(name, overrides).model_dump(mode="json")
    click.echo(json.dumps(values, indent=2) if as_json else yaml.safe_dump(values, sort_keys=False).rstrip("\n"))


@config_group.command("new")
@NAME
@SET
@handle_errors
def new_command(name: str, overrides: tuple[str, ...]) -> None:
    """Print a configuration to edit: every key with its value and what it means.

    Example: brainscale config new brainmrnet_paper > my.yaml
    """
    from brainscale.config.files import load_config
    from brainscale.config.template import write_template

    click.echo(write_template(load_config(name, overrides)), nl=False)
