"""A run without Ray has the bits of runs on Ray, also after kills of its worker or driver; so has its evaluation."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from brainscale.training.notices import read_notices
from tests.support.processes import SECONDS, part_of, started, wait_for
from tests.support.runs import SMALL, Invoke, succeed, weights

pytestmark = [pytest.mark.ray]
OFTEN = ["--set", "resources.checkpoint_steps=1"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "brainscale", *map(str, arguments)]


def without_ray(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that finds no Ray, and may not start one."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_raylet_start_wait_time_s"] = "0"
    code = (
        "import sys; import brainscale.cluster.session as s\n"
        "def refuse(*a, **k): raise AssertionError('Ray was started')\n"
        "s.session = refuse\n"
        "from brainscale.cli.main import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


def steps(run: Path) -> Mapping[str, object]:
    """History and every step."""
    return {p.name: pq.read_table(p).to_pylist() for p in [run / "history.parquet", *(run / "steps").iterdir()]}


def test_weights_steps_and_predictions_are_those_of_ray(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    train = ["train", "--data", run / "manifest.parquet", *SMALL]
    here, two, two_on_ray = tmp_path / "here", tmp_path / "two", tmp_path / "two_on_ray"
    without_ray(*train, "--out", here)
    without_ray(*train, "--out", two, "--workers", "2", "--set", "resources.cpus_per_worker=0.5")
    succeed(invoke(*train, "--out", two_on_ray, "--workers", "2"))
    assert weights(here) == weights(run) == weights(two) == weights(two_on_ray)
    assert steps(here) == steps(run) == steps(two) == steps(two_on_ray)
    for name in ("model.safetensors", "model.onnx", "novelty.npz"):
        if (run / "model" / name).is_file():
            assert (here / "model" / name).read_bytes() == (run / "model" / name).read_bytes()
    on_ray, local = tmp_path / "on_ray", tmp_path / "local"
    succeed(invoke("evaluate", here, "--split", "all", "--out", on_ray))
    without_ray("evaluate", here, "--split", "all", "--out", local)
    assert (on_ray / "predictions.parquet").read_bytes() == (local / "predictions.parquet").read_bytes()
    assert pq.read_table(on_ray / "metrics.parquet") == pq.read_table(local / "metrics.parquet")


def test_folds_are_those_of_ray(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    train = ["train", "--data", run / "manifest.parquet", *SMALL, "--epochs", "1", "--folds", "2"]
    done = without_ray(*train, "--parallel-folds", "1", "--out", tmp_path / "here")
    for line in ("repeat 1 of 1, fold 1 of 2", "repeat 1 of 1, fold 2 of 2: epoch 1/1, train loss "):
        assert line in done.stderr
    succeed(invoke(*train, "--out", tmp_path / "on_ray"))
    for fold in ("repeat-1/fold-1", "repeat-1/fold-2"):
        assert weights(tmp_path / "here" / fold) == weights(tmp_path / "on_ray" / fold)
    assert pq.read_table(tmp_path / "here/metrics.parquet") == pq.read_table(tmp_path / "on_ray/metrics.parquet")


def test_kills_of_driver_and_worker_change_no_bit(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    train = command("train", "--data", run / "manifest.parquet", "--out", other, *SMALL, *OFTEN)
    checkpoints = other / "checkpoints"

    def has_checkpoint() -> bool:
        return any(checkpoints.glob("last-*"))

    with started(train) as process:
        wait_for(has_checkpoint, process)
        worker = part_of(process.pid, "worker")
        assert worker is not None
        process.kill()
        process.wait(SECONDS)
        worker.wait(SECONDS)  # it ends with its driver
    assert not (other / "_SUCCESS.json").exists()
    with started(train) as process:
        wait_for(lambda: read_notices(other), process)  # resuming
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert "Error: stopped; to resume, run again: brainscale train --data" in said
    before = len(read_notices(other))
    with started([*train, "--workers", "2", "--set", "resources.cpus_per_worker=0.5"]) as process:
        wait_for(lambda: len(read_notices(other)) > before, process)
        worker = part_of(process.pid, "worker")
        assert worker is not None
        worker.kill()
        psutil.wait_procs([worker], SECONDS)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
    assert re.search(r"worker [01] failed: its process was killed \(SIGKILL\)", said)
    assert "restart 1 of 3" in said
    assert "resuming after epoch " in said
    assert weights(other) == weights(run)
    assert pq.read_table(other / "history.parquet") == pq.read_table(run / "history.parquet")
    assert not list(other.rglob("*.tmp"))
