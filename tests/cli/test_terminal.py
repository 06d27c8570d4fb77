"""Real commands on real terminals of 60 and 120 columns, and without one: bars, lines, Ctrl-C, and what comes next."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.terminals import screen, terminal

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"^[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] ")
SPARE = 4
SLOW = ["--set", "data.image_size=192", "--set", "train.batch_size=2", "--set", "train.micro_batch=2"]
"""Settings of epochs that last for seconds, so that their steps are seen."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def command(*words: object) -> list[str | Path]:
    return [sys.executable, "-m", "brainscale", *map(str, words)]


def bars(shown: str) -> list[str]:
    """Every state of the bar that was drawn, without the ^C that a terminal writes behind it."""
    return [
        line.rstrip().removesuffix("^C") for line in re.split(r"[\r\n]+", ESCAPES.sub("", shown)) if BAR.match(line)
    ]


@pytest.mark.parametrize("columns", [60, 120])
def test_index_draws_a_bar_that_fits_and_leaves_none(phantoms: Path, tmp_path: Path, columns: int) -> None:
    out = tmp_path / "m.parquet"
    with terminal(command("index", phantoms, "--out", out), ENVIRONMENT, columns) as there:
        assert there.end() == 0, there.shown
    drawn = bars(there.shown)
    assert any("reading" in bar and "files" in bar for bar in drawn), drawn
    assert max(map(len, drawn)) <= columns - SPARE
    left = screen(there.shown, columns)
    assert not any(BAR.match(line) for line in left), left
    assert left[0].startswith("Indexing ")
    assert "Next: brainscale split" in "".join(left)


@pytest.mark.parametrize("columns", [60, 120])
def test_ctrl_c_in_training_leaves_nothing_twice_and_says_how_to_resume(
    scans: Path, tmp_path: Path, columns: int
) -> None:
    train = command("train", "--data", scans, "--out", tmp_path / "run", *SLOW, "--epochs", "50")
    with terminal(train, ENVIRONMENT, columns) as there:
        there.wait_for("epoch 2/50")
        there.wait_for(" left")
        there.type("\x03")
        assert there.end() == 1
    drawn = bars(there.shown)
    assert any(re.search(r"epoch \d+/50 .*samples/s", bar) for bar in drawn), drawn[-5:]
    assert max(map(len, drawn)) <= columns - SPARE
    left = screen(there.shown, columns)
    assert not any(BAR.match(line) for line in left), left
    rows = [line for line in left if re.match(r" *\d+/50 ", line)]
    assert rows
    assert len(rows) == len({row.split()[0] for row in rows}), "each epoch once"
    assert all(len(row) <= 60 for row in rows)
    assert sum("train loss" in line for line in left) == 1
    assert "".join(left).count("to resume, run again: brainscale train") == 1


def test_without_a_terminal_a_line_says_what_begins_and_the_last_what_is_next(phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    began = time.monotonic()
    words = [str(word) for word in command("index", phantoms, "--out", out, "--json")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        seconds = time.monotonic() - began
        facts, rest = process.communicate()
    assert process.returncode == 0
    assert first.startswith("Indexing ")
    assert seconds < 10, "2 s on an idle machine"
    assert facts.startswith("{")
    assert facts.endswith("}\n")
    assert "\x1b" not in rest
    assert rest.splitlines()[-1] == f"Next: brainscale split {out} --out {tmp_path / 'm-split.parquet'}"
