"""The same commands as Ray jobs, through a Jobs server that this test starts on loopback."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.ray
BIN = Path(sys.executable).parent
TOKEN, WRONG_TOKEN = secrets.token_hex(32), secrets.token_hex(32)


def environment(token: str) -> dict[str, str]:
    """Ours, with a cluster's token, and with this Python as `python`."""
    ours = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
    return ours | {"PATH": f"{BIN}:{ours['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def jobs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a cluster of this test's own; only its own processes are ended."""
    gcs, port, agent = free_port(), free_port(), free_port()
    command = [
        *(BIN / "ray", "start", "--head", "--block", f"--port={gcs}", "--node-ip-address=127.0.0.1"),
        *("--num-cpus=3", "--object-store-memory=300000000", "--disable-usage-stats"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={agent}"),
        f"--temp-dir={tmp_path_factory.mktemp('r')}",
    ]
    server = subprocess.Popen(
        command, env=environment(TOKEN), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(address):
            assert server.poll() is None, "ray start ended"
            assert time.monotonic() < deadline, "no Jobs server"
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def answers(address: str) -> bool:
    try:
        request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 (loopback)
            return True
    except OSError:
        return False


def brainscale(*arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "brainscale", *map(str, arguments)]
    return subprocess.run(command, env=environment(token), capture_output=True, text=True)


def test_train_evaluate_and_score_as_jobs(jobs_server: str, scans: Path, tmp_path: Path) -> None:
    run, at = tmp_path / "run", ("--address", jobs_server)
    small = ("--epochs", 1, "--set", "data.image_size=64", "--set", "train.batch_size=16")
    done = brainscale("train", "--data", scans, "--out", run, *small, *at)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1" in done.stdout  # the job's own progress, followed
    assert (run / "_SUCCESS.json").exists()

    done = brainscale("evaluate", run, "--out", tmp_path / "evaluation", *at)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"accuracy"' in done.stdout
    assert (tmp_path / "evaluation" / "report.html").exists()

    done = brainscale("score", run, scans, "--out", tmp_path / "scores", *at)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "scores" / "_SUCCESS.json").read_text())["rows"] == 60
    assert sum(pq.read_metadata(p).num_rows for p in (tmp_path / "scores").glob("part-*")) == 60


def test_a_job_that_fails_says_why_and_gives_its_status(jobs_server: str, tmp_path: Path) -> None:
    done = brainscale("score", tmp_path, tmp_path, "--out", tmp_path / "scores", "--address", jobs_server)
    assert done.returncode == 1
    assert f"Error: {tmp_path} is neither a run nor a model folder" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "scores").exists()


def test_a_wrong_token_is_one_line(jobs_server: str, tmp_path: Path) -> None:
    arguments = ("score", tmp_path, tmp_path, "--out", tmp_path / "scores", "--address", jobs_server)
    done = brainscale(*arguments, token=WRONG_TOKEN)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {jobs_server} does not accept this client's token")
    assert WRONG_TOKEN not in done.stdout + done.stderr
