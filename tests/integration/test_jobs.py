"""The same commands as Ray jobs, through a Jobs server that this test starts on loopback."""

import json
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.clusters import Cluster, cluster
from tests.support.runs import SMALL
from tests.support.terminals import terminal

pytestmark = pytest.mark.ray
COMMAND = [sys.executable, "-m", "brainscale"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node with a Jobs server, and a token that it asks for."""
    with cluster(tmp_path_factory.mktemp("r")) as nodes:
        nodes.start_head(3)
        yield nodes


def started(head: Cluster, *arguments: object, token: str | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=head.environment(token),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = job.communicate(timeout=400)
    assert "Traceback" not in out + err
    return job.returncode, out, err


def brainscale(head: Cluster, *arguments: object, token: str | None = None) -> tuple[int, str, str]:
    return ended(started(head, *arguments, token=token))


def test_the_four_commands_as_jobs(head: Cluster, scans: Path, tmp_path: Path) -> None:
    run, manifest, at = tmp_path / "run", tmp_path / "m.parquet", ("--address", head.jobs)
    status, job, err = brainscale(head, "index", scans, "--out", manifest, *at, "--no-wait")
    assert (status, err) == (0, "")
    status, out, err = brainscale(head, "jobs", "logs", job.strip(), "--follow", *at)
    assert status == 0, out + err
    assert out.startswith("manifest")
    assert len(pq.read_table(manifest)) == 60

    status, out, err = brainscale(head, "train", "--data", manifest, "--out", run, *SMALL, *at, "--json")
    assert status == 0, out + err
    assert "epoch 2/2" in err  # the job's own progress, followed
    assert json.loads(out)["weights_sha256"] == json.loads((run / "_SUCCESS.json").read_text())["weights_sha256"]

    sent = [
        started(head, "evaluate", run, "--out", tmp_path / "evaluation", *at, "--json"),
        started(head, "score", run, scans, "--out", tmp_path / "scores", *at),
    ]
    (status, out, err), (other_status, other_out, other_err) = map(ended, sent)
    assert status == 0, out + err
    assert "accuracy" in json.loads(out)["metrics"]
    assert (tmp_path / "evaluation" / "report.html").exists()
    assert other_status == 0, other_out + other_err
    assert json.loads((tmp_path / "scores" / "_SUCCESS.json").read_text())["rows"] == 60
    assert sum(pq.read_metadata(p).num_rows for p in (tmp_path / "scores").glob("part-*")) == 60


def test_a_job_that_fails_says_why_and_gives_its_status(head: Cluster, tmp_path: Path) -> None:
    status, out, err = brainscale(
        head, "score", tmp_path, tmp_path, "--out", tmp_path / "scores", "--address", head.jobs
    )
    assert status == 1
    assert f"Error: {tmp_path} is neither a run nor a model folder" in err
    assert out == ""


def test_a_wrong_token_is_one_line(head: Cluster, tmp_path: Path) -> None:
    wrong = secrets.token_hex(32)
    arguments = ("score", tmp_path, tmp_path, "--out", tmp_path / "scores", "--address", head.jobs)
    status, out, err = brainscale(head, *arguments, token=wrong)
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith(f"Error: {head.jobs} does not accept the token of this machine")
    assert wrong not in out + err


def test_a_job_that_is_left_is_listed_and_stopped(head: Cluster, scans: Path, tmp_path: Path) -> None:
    at, run = ("--address", head.jobs), tmp_path / "run"
    train = ("train", "--data", scans, "--out", run, *SMALL, "--epochs", "200", *at)
    with terminal([*COMMAND, *map(str, train)], head.environment()) as screen:
        screen.wait_for("1/200")  # in the table that the command shows without a cluster
        screen.type("\x03")
        screen.wait_for("Stop the job too? [y/N]")
        screen.type("n\n")
        assert screen.end() == 1
    assert "│" in screen.shown
    job = re.findall(r"job (brainscale-train-[\w-]+)", screen.shown)[0]
    assert f"keeps running: follow it with `brainscale jobs logs {job} --address {head.jobs} --follow`" in screen.shown

    (there,) = [found for found in json.loads(brainscale(head, "jobs", "list", *at, "--json")[1]) if found["id"] == job]
    assert (there["command"], there["out"], there["status"]) == ("train", str(run), "running")
    assert head.token not in json.dumps(there)

    follower = started(head, "jobs", "logs", job, "--follow", *at)  # no terminal: nobody to ask
    assert follower.stderr is not None
    assert any(line.startswith("epoch 1/200  learning rate ") for line in follower.stderr)
    follower.send_signal(signal.SIGINT)
    status, out, err = ended(follower)
    assert (status, out) == (1, "")
    assert "Error: the job keeps running: " in err

    with terminal([*COMMAND, "jobs", "logs", job, "--follow", *at], head.environment()) as screen:
        screen.wait_for("/200")
        screen.type("\x03")
        screen.wait_for("Stop the job too? [y/N]")
        screen.type("y\n")
        assert screen.end() == 1
    assert f"job {job} stopped; run the same command again to resume" in screen.shown
    assert brainscale(head, "jobs", "stop", job, *at)[:2] == (0, f"{job} stopped\n")
    assert "epoch 1/200" in brainscale(head, "jobs", "logs", job, *at)[1]
    status, out, err = brainscale(head, "jobs", "logs", "brainscale-none", *at)
    assert (status, out) == (1, "")
    assert err == "Error: no job with id 'brainscale-none': `brainscale jobs list` lists the jobs\n"

    files = [path for path in head.folder.rglob("*") if path.is_file()]  # logs, job descriptions, uploads
    assert any(path.name == f"job-driver-{job}.log" for path in files)
    assert [path.name for path in files if head.token.encode() in path.read_bytes()] == []
