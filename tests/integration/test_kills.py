"""Training on real scans gives the same bits on 1, 2 and 4 workers, and after kill -9 of whatever takes part.

BRAINSCALE_KILLS=10 makes so many runs, each with a kill of its own at a random moment (`make kills`).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from brainscale.notices import read_notices
from tests.integration.conftest import Invoke, succeed, weights

pytestmark = [pytest.mark.ray]
KILLS = int(os.environ.get("BRAINSCALE_KILLS", "0"))
SETTINGS = [
    *("--set", "data.image_size=64", "--set", "data.crop=1.0", "--set", "train.batch_size=32", "--epochs", "2"),
    *("--set", "resources.checkpoint_steps=1"),
]
SECONDS = 300


@pytest.fixture(scope="session")
def untouched(ray_cluster: None, real_scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from click.testing import CliRunner

    from brainscale.cli import main

    run = tmp_path_factory.mktemp("real") / "run"
    succeed(CliRunner().invoke(main, ["train", "--data", str(real_scans), "--out", str(run), *SETTINGS]))
    return run


def assert_equal(run: Path, untouched: Path) -> None:
    """To the bit: weights, history, and every step."""
    assert weights(run) == weights(untouched)
    for name in ("history.parquet", "steps/epoch-0001.parquet", "steps/epoch-0002.parquet"):
        assert pq.read_table(run / name) == pq.read_table(untouched / name)


@pytest.mark.parametrize("workers", [2, 4])
def test_the_worker_count_changes_no_bit(
    workers: int, untouched: Path, real_scans: Path, invoke: Invoke, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    succeed(invoke("train", "--data", real_scans, "--out", run, *SETTINGS, "--workers", workers))
    assert_equal(run, untouched)
    said = succeed(invoke("verify", untouched, run)).stdout
    steps = sum(len(pq.read_table(p)) for p in (run / "steps").iterdir())
    assert said.strip() == f"bit-equal: {steps} steps, and the weights that were kept"


def test_another_seed_parts_at_the_first_step(
    untouched: Path, real_scans: Path, invoke: Invoke, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    succeed(invoke("train", "--data", real_scans, "--out", run, *SETTINGS, "--seed", 43, "--epochs", 1))
    result = invoke("verify", untouched, run)
    assert result.exit_code == 1
    assert result.stdout.startswith("they part at epoch 1, step 1: loss_sum is ")
    assert "differs: train.seed: 42 and 43" in result.stdout


def part_of(process: subprocess.Popen[str], kind: str) -> psutil.Process | None:
    """A process of a command: its driver, a training worker, or its raylet; None if there is none (yet)."""
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(process.pid)
        if kind == "driver":
            return driver
        for child in driver.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                command = " ".join(child.cmdline())
                if kind == "worker" and "RayTrainWorker" in command:
                    return child
                if kind == "raylet" and child.name() == "raylet":
                    return child
    return None


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own; nothing of it is left after the with-block."""
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until something happened, or the process ended."""
    deadline = time.monotonic() + SECONDS
    while not happened() and process.poll() is None:
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def kill(process: subprocess.Popen[str], kind: str) -> bool:
    """Whether there was one to kill."""
    target = part_of(process, kind)
    if target is not None:
        target.send_signal(signal.SIGKILL)
    return target is not None


def checkpoints(run: Path) -> int:
    """Steps whose state is kept, counted over the run."""
    names = sorted(p.stem for p in (run / "checkpoints").glob("last-*"))
    epoch, step = map(int, names[-1].split("-")[1:]) if names else (0, 0)
    return epoch * 1000 + step


def test_kill_after_kill_changes_no_bit(untouched: Path, real_scans: Path, tmp_path: Path) -> None:
    """A worker, the raylet, the driver, each a little further on, in one run."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "brainscale", "train", "--data", str(real_scans), "--out", str(run), *SETTINGS]
    for kind, after in (("driver", 1), ("raylet", 3)):
        with started([*command, "--workers", "2"]) as process:
            wait_for(lambda after=after: checkpoints(run) >= after, process)  # type: ignore[misc]
            assert kill(process, kind), process.communicate()
            process.wait(SECONDS)
            assert process.returncode != 0
        assert not (run / "_SUCCESS.json").exists()
    with started(command) as process:  # on another number of workers; one dies, and the command goes on by itself
        wait_for(lambda: checkpoints(run) >= 1001, process)
        assert kill(process, "worker"), process.communicate()
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
    assert "worker 0 failed (" in said
    assert "restart 1 of 3" in said
    assert "going on after epoch 1, step " in said
    assert_equal(run, untouched)
    assert any("restart 1 of 3" in text for text in read_notices(run))


@pytest.mark.skipif(not KILLS, reason="the long form: make kills")
@pytest.mark.parametrize("number", range(KILLS))
def test_a_kill_at_a_random_moment_changes_no_bit(
    number: int, untouched: Path, real_scans: Path, tmp_path: Path
) -> None:
    """Driver and worker in turns, and every fifth time the raylet, from the start of Ray to the last file."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "brainscale", "train", "--data", str(real_scans), "--out", str(run), *SETTINGS]
    kind = "raylet" if number % 5 == 4 else ("driver", "worker")[number % 2]
    moment = random.Random(number)  # noqa: S311 (no secret)
    with started([*command, "--workers", str(1 + number % 2)]) as process:
        wait_for(lambda: part_of(process, kind), process)
        time.sleep(moment.uniform(0, 25 if kind == "driver" else 15))
        found = kill(process, kind)
        process.wait(SECONDS)
    killed = "killed" if found else "had ended"
    print(f"{kind} {killed}, state {checkpoints(run)}, status {process.returncode}")  # noqa: T201 (make kills)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_equal(run, untouched)
