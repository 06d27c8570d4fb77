"""Training gives the same bits on 1, 2 and 4 workers, and after kill -9 of whatever takes part.

BRAINSCALE_KILLS=10 makes so many runs, each with a kill of its own at a random moment (`make kills`).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brainscale.storage.workspace import Workspace
from brainscale.training.attempts import clear_leftovers
from brainscale.training.notices import read_notices
from tests.support.processes import SECONDS, beside, kill, kill_with_workers, part_of, started, wait_for
from tests.support.runs import SMALL, Invoke, succeed, weights

pytestmark = [pytest.mark.ray]
KILLS = int(os.environ.get("BRAINSCALE_KILLS", "0"))
SETTINGS = [*SMALL, "--set", "resources.checkpoint_steps=1"]


def assert_equal(other: Path, run: Path) -> None:
    """To the bit: weights, history, and every step."""
    assert weights(other) == weights(run)
    for name in ("history.parquet", "steps/epoch-0001-000000.parquet", "steps/epoch-0002-000000.parquet"):
        assert pq.read_table(other / name) == pq.read_table(run / name)
    assert not list(other.rglob("*.tmp"))


def steps_kept(run: Path) -> int:
    """The state that is kept: epochs × 1000 + steps."""
    names = sorted(p.stem for p in (run / "checkpoints").glob("last-*"))
    epoch, step = map(int, names[-1].split("-")[1:]) if names else (0, 0)
    return epoch * 1000 + step


def test_two_and_four_workers_that_are_killed_again_and_again_give_the_bits_of_one(
    run: Path, invoke: Invoke, tmp_path: Path
) -> None:
    """Ctrl-C, kill -9 of the raylet, of the driver and of a worker, each a little further on, in one run."""
    other = tmp_path / "run"
    train = ["train", "--data", str(run / "manifest.parquet"), "--out", str(other), *SETTINGS]
    train += ["--set", "resources.ray=always", "--workers"]
    command = [sys.executable, "-m", "brainscale", *train, "2"]

    def training_begins() -> bool:
        return any((other / "checkpoints").glob(".ray-*"))

    with started(command) as process:
        wait_for(training_begins, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert "Error: stopped; to resume, run again: brainscale train --data" in said
    clear_leftovers(Workspace(other))
    for kind, happened in (("raylet", training_begins), ("driver", lambda: steps_kept(other) > 0)):
        with started(command) as process:
            wait_for(happened, process)
            assert kill_with_workers(process, kind)
            process.wait(SECONDS)
            assert process.returncode != 0
        assert not (other / "_SUCCESS.json").exists()
    before = len(read_notices(other))

    def kill_a_worker() -> None:
        wait_for(lambda: len(read_notices(other)) > before)
        assert kill(os.getpid(), "worker")

    with beside(kill_a_worker):  # the command goes on by itself
        said = succeed(invoke(*train, "4")).stderr
    assert "restart 1 of 3" in said
    assert "resuming after epoch " in said
    assert_equal(other, run)
    steps = sum(len(pq.read_table(p)) for p in (run / "steps").iterdir())
    said = succeed(invoke("verify", run, other)).stdout
    assert said.strip() == f"bit-equal: all {steps} steps and the final weights"


@pytest.mark.skipif(not KILLS, reason="the long form: make kills")
@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill_at_a_random_moment_changes_no_bit(number: int, run: Path, scans: Path, tmp_path: Path) -> None:
    """Driver and worker in turns, and every fifth time the raylet, from the start of Ray to the last file."""
    other = tmp_path / "run"
    command = [sys.executable, "-m", "brainscale", "train", "--data", str(scans), "--out", str(other), *SETTINGS]
    kind = "raylet" if number % 5 == 4 else ("driver", "worker")[number % 2]
    command += ["--set", "resources.ray=always"] if kind == "raylet" else []
    moment = random.Random(number)  # noqa: S311 (no secret)
    with started([*command, "--workers", str(1 + number % 2)]) as process:
        wait_for(lambda: part_of(process.pid, kind), process)
        time.sleep(moment.uniform(0, 45 if kind == "driver" else 20))
        found = kill(process.pid, kind)
        process.wait(SECONDS)
    killed = f"{kind} {'killed' if found else 'had ended'}"
    print(f"{killed}; {steps_kept(other)} of epochs and steps kept; status {process.returncode}")  # noqa: T201
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_equal(other, run)
