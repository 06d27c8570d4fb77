"""Our command lines as files show them: they must parse."""

import re
import shlex
from pathlib import Path
from typing import Any

import click

from brainscale.cli.main import main


def require_options(line: str) -> dict[str, Any]:
    """Parse `brainscale COMMAND ...` as the command line would, without running it.

    Returns:
        Parameter → value, as the command gets it.

    Raises:
        click.UsageError: a command, an option or an argument that does not exist or is absent.
    """
    program, name, *arguments = shlex.split(line, comments=True)
    assert program == "brainscale", line
    with click.Context(main, info_name=program) as group:
        _, command, rest = main.resolve_command(group, [name, *arguments])
        assert command is not None, line
        with command.make_context(name, rest, parent=group) as context:
            return dict(context.params)


def shown(page: Path, start: str) -> list[str]:
    """Lines of a page's code blocks that begin like this."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.startswith(start)]
