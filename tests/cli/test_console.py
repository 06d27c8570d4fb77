"""A Ctrl-C is a stop, also where a library makes another error of it."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import click, signal
from brainscale import interrupts
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
TERMINATED = """with interrupts.ending_children():
            signal.raise_signal(signal.SIGTERM)"""


@pytest.mark.parametrize(
    ("first", "error", "said"),
    [
        (STOP, "RuntimeError('half loaded')", "Error: stopped; to resume, run again: brainscale work\n"),
        (TERMINATED, "RuntimeError('half loaded')", "Error: stopped; to resume, run again: brainscale work\n"),
        (STOP, "click.UsageError('no such option')", "no such option"),
        ("pass", "RuntimeError('half loaded')", "Error: unexpected RuntimeError: half loaded"),
    ],
)
def test_an_unexpected_error_after_a_stop_is_a_stop(first: str, error: str, said: str) -> None:
    code = COMMAND.format(first=first, error=error)
    done = subprocess.run([sys.executable, "-c", code, "work"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert said in done.stderr


PANDAS = """
import sys
from brainscale.cli.console import load_arrow

load_arrow()
import pyarrow as pa

table = pa.table({"a": [1, 2]})
print("pandas" in sys.modules, len(table.to_pandas()), "pandas" in sys.modules)
"""


def test_tables_do_without_pandas_until_somebody_asks_for_a_frame() -> None:
    done = subprocess.run([sys.executable, "-c", PANDAS], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False 2 True\n", "")


COMMANDS = """
import sys
from contextlib import suppress
from brainscale.cli.main import main

with suppress(SystemExit):
    main(sys.argv[1:])
import pyarrow as pa

pa.array([0])
print("pandas" in sys.modules)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "no/such", "--out", "run"],
        ["overlap", "no/such", "no/other"],
        ["report", "no/such"],
        ["models", "no/such"],
    ],
    ids=lambda words: words[0],
)
def test_a_command_with_tables_keeps_pyarrow_from_loading_pandas(words: list[str], tmp_path: Path) -> None:
    code = [sys.executable, "-c", COMMANDS, *words]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr
