"""Errors in one line, exit codes, whole sentences in help, and results as text or JSON."""

import importlib.abc
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from textwrap import fill
from typing import Any

import click

from brainscale import interrupts, logs
from brainscale.errors import BrainscaleError, describe_remedy, first_line
from brainscale.formatting import printable

Command = Callable[..., Any]
WHOLE = 1000
"""Length of a summary in the list of commands: click would cut it at the end of the line."""
TERMINAL_WIDTH = 80
"""Columns of running text."""
LABELS = {
    "burned_in": "samples with text burned in",
    "byte_identical_copies": "identical copies",
    "byte_identical_groups": "sets of identical files",
    "example_of_two_labels": "example of different labels",
    "files_not_in_it": "files of the sources without scores",
    "groups_with_two_labels": "groups with different labels",
    "header_only_control": "header-only control",
    "left_out": "samples left out",
    "looks": "models evaluated on this split",
    "looks_note": "not counted in the run",
    "out": "output folder",
    "rows_a_second": "rows per second",
    "rows_now": "rows scored now",
    "samples_beyond_one_a_group": "samples after the first of each group",
    "samples_without_patient": "samples without known patient",
    "seconds_now": "seconds for them",
    "shared_with_training": "samples shared with training",
    "sides_in_pixels": "image sides in pixels",
    "skipped": "files without an image",
    "verified": "checked columns",
}
"""Labels of results whose names in JSON do not read well."""


class Group(click.Group):
    """Commands whose failures are one line, `Error: …`; `--debug` shows the traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit: status 0 if it succeeded, 1 if it failed, 2 for wrong usage."""
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # otherwise it says where it keeps its cache
        earlier_format = os.environ.get(logs.VARIABLE)
        try:
            with interrupts.remembering():
                return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            arguments = kwargs.get("args") or (args[0] if args else None) or sys.argv[1:]
            _exit(f"stopped; to resume, run again: brainscale {shlex.join(arguments)}", 1)
        except click.ClickException as error:
            context = error.ctx if isinstance(error, click.UsageError) else None
            hint = f" (see `{context.command_path} --help`)" if context and not logs.is_structured() else ""
            _exit(f"{error.format_message().rstrip('.')}{hint}", error.exit_code)
        finally:  # --log-format is valid for this call only
            if earlier_format is None:
                os.environ.pop(logs.VARIABLE, None)
            else:
                os.environ[logs.VARIABLE] = earlier_format

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with its whole first sentence."""
        with formatter.section("Commands"):
            names = self.list_commands(ctx)
            formatter.write_dl([(name, self.commands[name].get_short_help_str(WHOLE)) for name in names])


def _exit(message: str, status: int) -> None:
    line = " ".join(message.split())
    logs.log("error", line if logs.is_structured() else f"Error: {line}", level="error", exit_status=status)
    sys.exit(status)


def _set_log_format(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.environ[logs.VARIABLE] = value


log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    is_eager=True,  # errors in the rest of the arguments are written in this format too
    expose_value=False,
    callback=_set_log_format,
    show_default=f"text, or ${logs.VARIABLE}",
    help="Format of standard error: text, or one JSON object per line.",
)
"""An option of every command, before or after its name."""


def handle_errors(command: Command) -> Command:
    """Add `--log-format` and `--debug`, and turn errors into one line and an exit status."""

    @log_format
    @click.option("--debug", is_flag=True, help="Show a traceback if the command fails.")
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
                _exit(str(error), error.exit_code)
            if (remedy := describe_remedy(error)) is not None:
                _exit(f"{_describe_fault(error)}: {remedy}", 1)
            if interrupts.was_asked():
                raise KeyboardInterrupt from error
            name = type(error).__name__
            _exit(f"unexpected {name}: {str(error)[:300]} (run again with --debug for the traceback)", 1)

    return run


def load_arrow() -> None:
    """Load pyarrow and let it do without pandas, which it would load for its first list, in 0.1 s; no command needs it.

    Who calls `to_pandas` in this process later still gets a frame.
    """
    if {"pandas", "pyarrow"} & sys.modules.keys():
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])  # it looks for pandas once
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:  # noqa: ARG002
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def _describe_fault(error: Exception) -> str:
    """Return the file and the reason of an error of the operating system."""
    file, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or first_line(error)
    return f"{file}: {reason}" if file else reason


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Print a result on standard output, as one line for each fact or as JSON; log it if the log is structured."""
    logs.log("done", facts=facts)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    lines = _texts(facts)
    width = max(map(len, lines))
    for label, text in lines.items():
        click.echo(f"{label:<{width}}  {printable(text)}")
    if "intervals" in facts:
        from brainscale.stats.metric_names import PUBLISHED_NOTE

        click.echo(f"\n{fill(PUBLISHED_NOTE, TERMINAL_WIDTH)}")


def _texts(facts: dict[str, Any]) -> dict[str, str]:
    """Return label → text of each fact; metrics follow with their intervals, by the names that every output uses."""
    others = {name: value for name, value in facts.items() if name not in ("metrics", "intervals")}
    texts = {LABELS.get(name, name.replace("_", " ")): _format(value) for name, value in others.items()}
    if "intervals" not in facts:
        return texts
    from brainscale.stats.metric_names import metric_name

    for name, (low, high) in facts["intervals"].items():
        interval = "" if low is None else f"  {low:.4f} to {high:.4f}"
        label = metric_name(name, facts.get("prevalence")).name
        texts[label] = _format(facts["metrics"][name]) + interval
    return texts


def _format(value: Any) -> str:
    """Return a value as text on one line; a dash for None."""
    if isinstance(value, dict):
        texts = {
            key: f"({_format(inner)})" if isinstance(inner, dict) else _format(inner) for key, inner in value.items()
        }
        return ", ".join(f"{key} {text}" for key, text in texts.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_format, value)) or "none"
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
