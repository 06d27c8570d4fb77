"""Jobs on three nodes of which one dies in the middle, and a head that dies."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from brainscale.cli.main import main
from tests.support.clusters import Cluster, cluster
from tests.support.runs import SMALL, scores, succeed, weights

pytestmark = pytest.mark.ray
SOON = """
from brainscale.cli.main import main
from brainscale.cluster import jobs

jobs.GONE_S = 3.0
main(prog_name="brainscale")
"""
"""The command, which does not wait half a minute for a server that has gone."""


@pytest.fixture(scope="module")
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head with a CPU for the job and its reading, and two nodes with two each."""
    with cluster(tmp_path_factory.mktemp("n")) as nodes:
        nodes.start_head(1)
        nodes.add_node(2)
        nodes.add_node(2)
        yield nodes


def submit(nodes: Cluster, *arguments: object, shared: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SOON, *map(str, arguments), "--address", nodes.jobs]
    command += ["--shared"] if shared else []
    return subprocess.Popen(
        command, env=nodes.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(there: Callable[[], bool], job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not there():
        assert job.poll() is None, f"it ended: {job.communicate()[0]}"
        assert time.monotonic() < deadline, "it does not get on"
        time.sleep(0.1)


def ended(job: subprocess.Popen[str]) -> str:
    said, _ = job.communicate(timeout=420)
    assert job.returncode == 0, said
    return said


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
    succeed(CliRunner().invoke(main, ["score", str(run), str(many), "--out", str(out)]))
    return scores(out)


def test_a_node_is_lost_while_scoring_and_while_training(
    three_nodes: Cluster, run: Path, scans: Path, many: Path, untouched: list[dict[str, object]], tmp_path: Path
) -> None:
    out, other = tmp_path / "scores", tmp_path / "run"
    job = submit(three_nodes, "score", run, many, "--out", out, "--workers", 3)
    wait_for(lambda: parts(out) >= 2, job)
    three_nodes.kill(three_nodes.nodes[-1])
    assert job.poll() is None, "it was over before the node was lost"
    ended(job)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows"] == 480
    assert scores(out) == untouched

    three_nodes.add_node(2)
    job = submit(three_nodes, "train", "--data", scans, "--out", other, *SMALL, "--workers", 4)
    wait_for((other / "history.parquet").exists, job)
    three_nodes.kill(three_nodes.nodes[-1])
    assert job.poll() is None, "it was over before the node was lost"
    three_nodes.add_node(2)
    assert "restart 1 of 3" in ended(job)
    assert weights(other) == weights(run)
    assert pq.read_table(other / "history.parquet").equals(pq.read_table(run / "history.parquet"))


def test_a_path_that_nodes_do_not_share_is_refused(
    three_nodes: Cluster, run: Path, scans: Path, tmp_path: Path
) -> None:
    job = submit(three_nodes, "score", run, scans, "--out", tmp_path / "scores", shared=False)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 2
    assert f"Error: {scans} is a local path, but this cluster has 3 nodes with disks of their own" in said


def test_a_head_that_dies_is_said_and_the_same_command_goes_on_elsewhere(
    three_nodes: Cluster, run: Path, many: Path, untouched: list[dict[str, object]], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    job = submit(three_nodes, "score", run, many, "--out", out)
    wait_for(lambda: parts(out) >= 2, job)
    three_nodes.kill(three_nodes.nodes[0])
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 1
    last = said.splitlines()[-1]
    assert last.startswith("Error: the Jobs server does not answer any more")
    assert last.endswith("when the cluster is back, run the same command again to resume")
    assert "Traceback" not in said
    done = parts(out)
    facts = json.loads(
        succeed(CliRunner().invoke(main, ["score", str(run), str(many), "--out", str(out), "--json"])).stdout
    )
    assert facts["rows_now"] < 480
    assert parts(out) > done
    assert scores(out) == untouched


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))
