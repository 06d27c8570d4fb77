"""How the command line speaks: one-line errors, exit codes, and facts as text or JSON."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from brainscale import logs
from brainscale.errors import BrainscaleError

Command = Callable[..., Any]


class Group(click.Group):
    """Commands whose failures are one line: `Error: …`, with a traceback only where --debug asks."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and leave with 0 done, 1 failed, 2 wrong usage."""
        before = os.environ.get(logs.VARIABLE)
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Exit as leave:
            sys.exit(leave.exit_code)
        except (click.Abort, KeyboardInterrupt):
            given = kwargs.get("args") or (args[0] if args else None) or sys.argv[1:]
            _fail(f"stopped; to resume, run again: brainscale {shlex.join(given)}", 1)
        except click.ClickException as error:
            if logs.is_structured():
                _fail(error.format_message(), error.exit_code)
            error.show()
            sys.exit(error.exit_code)
        finally:  # --log-format is of this call only
            if before is None:
                os.environ.pop(logs.VARIABLE, None)
            else:
                os.environ[logs.VARIABLE] = before


def _fail(message: str, status: int) -> None:
    line = " ".join(message.split())
    logs.log("error", line if logs.is_structured() else f"Error: {line}", level="error", exit_status=status)
    sys.exit(status)


def common(command: Command) -> Command:
    """Options and error handling that every command has."""

    @click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
    @wraps(command)
    def run(*args: Any, debug: bool, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, KeyboardInterrupt):
            raise
        except Exception as error:
            if debug:
                raise
            if isinstance(error, BrainscaleError):
                _fail(str(error), error.exit_code)
            name = type(error).__name__
            _fail(f"unexpected {name}: {str(error)[:300]} (run again with --debug for the traceback)", 1)

    return run


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """One line for each fact, or JSON, on standard output; in a structured log too."""
    logs.log("done", facts=facts)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    facts = _with_intervals(facts)
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {_plain(value)}")


def _with_intervals(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts with a line for each figure, where there are figures with intervals."""
    if "intervals" not in facts:
        return facts
    lines = {name: _plain(value) for name, value in facts["metrics"].items()}
    for name, (low, high) in facts["intervals"].items():
        lines[name] += "" if low is None else f"  {low:.4f} to {high:.4f}"
    return {name: value for name, value in facts.items() if name not in ("metrics", "intervals")} | lines


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items()) or "none"
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
