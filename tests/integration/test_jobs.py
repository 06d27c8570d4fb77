"""Commands as Ray jobs on three nodes, followed, left and stopped, while nodes and at last the head die.

The tests build on each other's cluster: it loses a node on the way.
"""

import json
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brainscale.errors import RERUN
from tests.support.clusters import COMMAND, Cluster, cluster, ended, result_of
from tests.support.runs import SMALL, invoke, scores, succeed, weights
from tests.support.terminals import terminal

pytestmark = pytest.mark.ray
SOON = """
from brainscale.cli.main import main
from brainscale.cluster import jobs

jobs.GONE_S = 3.0
main(prog_name="brainscale")
"""
"""The command, which does not wait half a minute for a server that has gone."""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head with a Jobs server and a CPU for reading, and two nodes with two each."""
    with cluster(tmp_path_factory.mktemp("r")) as nodes:
        nodes.start_head(1)
        nodes.add_node(2)
        nodes.add_node(2)
        yield nodes


def wait_for(there: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not there():
        assert job.poll() is None, f"it ended: {job.communicate()}"
        assert time.monotonic() < deadline, "it does not get on"
        time.sleep(0.05)


def test_what_cannot_be_is_one_line_with_its_status(head: Cluster, run: Path, scans: Path, tmp_path: Path) -> None:
    out, wrong = tmp_path / "scores", secrets.token_hex(32)
    jobs = {
        "no model": head.command("score", tmp_path, tmp_path, "--out", out, "--shared"),
        "paths": head.command("score", run, scans, "--out", out),
        "token": head.command("score", run, scans, "--out", out, token=wrong),
    }
    ends = {name: ended(job) for name, job in jobs.items()}
    assert {name: (status, out) for name, (status, out, _) in ends.items()} == {
        "no model": (1, ""),
        "paths": (2, ""),
        "token": (1, ""),
    }
    assert f"Error: {tmp_path} is neither a run nor a model folder" in ends["no model"][2]
    assert f"Error: {scans} is a local path, but this cluster has 3 nodes" in ends["paths"][2]
    (line,) = ends["token"][2].splitlines()
    assert line.startswith(f"Error: {head.jobs} does not accept the token of this machine")
    assert wrong not in line


def test_index_and_evaluate_as_jobs(head: Cluster, run: Path, scans: Path, tmp_path: Path) -> None:
    evaluation = head.command("evaluate", run, "--out", tmp_path / "evaluation", "--shared", "--json")
    index = head.command("index", scans, "--out", tmp_path / "m.parquet", "--shared", "--no-wait")
    status, job, said = ended(index)
    assert (status, said) == (0, "")
    status, result, shown = ended(head.command("jobs", "logs", job.strip(), "--follow"))
    assert (status, result.split()[0]) == (0, "manifest")
    log = result_of(head.command("jobs", "logs", job.strip()))
    for text in (shown, log):
        assert not re.search(r"INFO|WARNING|\.py:\d|\.cc:\d|entrypoint|brainscale-result|^\{", text, re.MULTILINE), text
    header, first = result_of(head.command("jobs", "list")).splitlines()[:2]
    assert header.split() == ["job", "status", "started", "duration", "output"]
    assert " ago  " in first
    assert len(pq.read_table(tmp_path / "m.parquet")) == 60
    assert "accuracy" in json.loads(result_of(evaluation))["metrics"]
    assert (tmp_path / "evaluation" / "report.html").exists()


def test_a_job_that_is_left_is_listed_and_stopped(head: Cluster, run: Path, tmp_path: Path) -> None:
    at, out = ("--address", head.jobs), tmp_path / "run"
    train = ("train", "--data", run / "manifest.parquet", "--out", out, *SMALL, "--epochs", "5000", "--workers", "1")
    with terminal([*COMMAND, *map(str, train), "--shared", *at], head.environment()) as screen:
        screen.wait_for("train loss")  # the heading of the table that the command shows without a cluster
        screen.wait_for("/5000")
        screen.type("\x03")
        screen.wait_for("Stop the job too? [y/N]")
        screen.type("n\n")
        assert screen.end() == 0
    job = re.findall(r"job (brainscale-train-[\w-]+)", screen.shown)[0]
    assert (
        f"the job goes on: follow it again with `brainscale jobs logs {job} --address {head.jobs} --follow`"
        in screen.shown
    )

    (there,) = [found for found in json.loads(result_of(head.command("jobs", "list", "--json"))) if found["id"] == job]
    assert (there["command"], there["out"], there["status"]) == ("train", str(out), "running")
    assert head.token not in json.dumps(there)

    follower = head.command("jobs", "logs", job, "--follow")  # no terminal: nobody to ask
    assert follower.stderr is not None
    assert any(line.startswith("epoch 1/5000  learning rate ") for line in follower.stderr)
    follower.send_signal(signal.SIGINT)
    status, said, err = ended(follower)
    assert (status, said) == (0, "")
    assert "the job goes on: follow it again with" in err
    assert "Error" not in err

    with terminal([*COMMAND, "jobs", "logs", job, "--follow", *at], head.environment()) as screen:
        screen.wait_for("/5000")
        screen.type("\x03")
        screen.wait_for("Stop the job too? [y/N]")
        screen.type("y\n")
        assert screen.end() == 1
    assert f"job {job} stopped; run the same command again to resume" in screen.shown
    asked = [head.command("jobs", *words) for words in (("stop", job), ("logs", job), ("logs", "brainscale-none"))]
    assert result_of(asked[0]) == f"{job} stopped\n"
    log = result_of(asked[1])
    assert "epoch 1/5000" in log
    assert f"stopped: {RERUN}" in log
    assert "SIGTERM" not in log
    status, said, err = ended(asked[2])
    assert (status, said) == (1, "")
    assert err == "Error: no job with id 'brainscale-none': `brainscale jobs list` lists the jobs\n"

    files = [path for path in head.folder.rglob("*") if path.is_file()]  # logs, job descriptions, uploads
    assert any(path.name == f"job-driver-{job}.log" for path in files)
    assert [path.name for path in files if head.token.encode() in path.read_bytes()] == []


@pytest.fixture(scope="module")
def many(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scans eight times over: some parts."""
    folder = tmp_path_factory.mktemp("many")
    for copy in range(8):
        for path in scans.rglob("*.*"):
            place = folder / f"{copy}" / path.relative_to(scans)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)
    return folder


@pytest.fixture(scope="module")
def untouched(run: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Rows of a job that nobody disturbed."""
    out = tmp_path_factory.mktemp("untouched")
    succeed(invoke("score", run, many, "--out", out))
    return scores(out)


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def test_a_node_is_lost_while_scoring(
    head: Cluster, run: Path, many: Path, untouched: list[dict[str, object]], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    job = head.command("score", run, many, "--out", out, "--workers", 3, "--shared")
    wait_for(lambda: parts(out) >= 2, job)
    head.kill(head.nodes[-1])
    assert job.poll() is None, "it was over before the node was lost"
    result_of(job)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows"] == 480
    assert scores(out) == untouched
    status, _, said = ended(head.command("score", run, many, "--out", out, "--workers", 3, "--shared"))
    assert (status, f"{out} was already complete: nothing to do" in said) == (0, True)


def test_a_node_is_lost_while_training(head: Cluster, run: Path, tmp_path: Path) -> None:
    """A worker on the node that is left, and one on the head."""
    out, manifest = tmp_path / "run", run / "manifest.parquet"
    often = ("--set", "resources.checkpoint_steps=1", "--workers", 2)
    job = head.command("train", "--data", manifest, "--out", out, *SMALL, *often, "--shared", "--json")
    wait_for(lambda: any((out / "checkpoints").glob("last-*.safetensors")), job)
    head.kill(head.nodes[-1])
    assert job.poll() is None, "it was over before the node was lost"
    head.add_node(2)
    status, facts, said = ended(job)
    assert status == 0, said
    assert "restart 1 of 3" in said
    assert "epoch 2/2" in said  # the job's own progress, followed
    assert json.loads(facts)["weights_sha256"] == weights(out) == weights(run)
    assert pq.read_table(out / "history.parquet").equals(pq.read_table(run / "history.parquet"))


def test_a_head_that_dies_is_said_and_the_same_command_goes_on_elsewhere(
    head: Cluster, run: Path, many: Path, untouched: list[dict[str, object]], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    job = head.command("score", run, many, "--out", out, "--shared", program=[sys.executable, "-c", SOON])
    wait_for(lambda: parts(out) >= 2, job)
    head.kill(head.nodes[0])
    status, _, said = ended(job)
    assert status == 1
    last = said.splitlines()[-1]
    assert last.startswith("Error: the Jobs server does not answer any more")
    assert last.endswith("when the cluster is back, run the same command again to resume")
    done = parts(out)
    facts = json.loads(succeed(invoke("score", run, many, "--out", out, "--json")).stdout)
    assert facts["rows_now"] < 480
    assert parts(out) > done
    assert scores(out) == untouched
