"""A Ctrl-C is a stop, also where a library makes another error of it."""

import subprocess
import sys

import pytest

COMMAND = """
import click, signal
from brainscale.cli.console import Group, handle_errors

@click.group(cls=Group)
def main():
    pass

@main.command()
@handle_errors
def work():
    try:
        {first}
    except KeyboardInterrupt:
        pass
    raise {error}

main()
"""
STOP = "signal.raise_signal(signal.SIGINT)"


@pytest.mark.parametrize(
    ("first", "error", "said"),
    [
        (STOP, "RuntimeError('half loaded')", "Error: stopped; to resume, run again: brainscale work\n"),
        (STOP, "click.UsageError('no such option')", "no such option"),
        ("pass", "RuntimeError('half loaded')", "Error: unexpected RuntimeError: half loaded"),
    ],
)
def test_an_unexpected_error_after_a_stop_is_a_stop(first: str, error: str, said: str) -> None:
    code = COMMAND.format(first=first, error=error)
    done = subprocess.run([sys.executable, "-c", code, "work"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert said in done.stderr
