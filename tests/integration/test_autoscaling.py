"""Jobs on a cluster that scales from zero: a head without CPUs, and an autoscaler that starts nodes for them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clusters import Cluster, cluster, ended, result_of
from tests.support.runs import SMALL, long, scores, weights

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def from_zero(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without CPUs; a node of two may be added."""
    with cluster(tmp_path_factory.mktemp("z")) as nodes:
        nodes.start_head(0, more=[{"CPU": 2}])
        yield nodes


def test_what_no_node_can_hold_is_refused_and_starts_none(
    from_zero: Cluster, run: Path, scans: Path, tmp_path: Path
) -> None:
    large = ("--cpus-per-worker", 64, "--shared")
    status, _, said = ended(from_zero.command("score", run, scans, "--out", tmp_path / "scores", *large))
    assert status == 1
    assert said.splitlines()[-1] == (
        "Error: 1 worker needs 64 CPUs on one node, but a node has 0 CPUs and the "
        "autoscaler cannot add nodes for them: ask for fewer or smaller workers, or add nodes"
    )
    assert len(from_zero.ever()) == 1


def test_scoring_starts_the_node_that_it_needs(from_zero: Cluster, run: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    status, _, said = ended(from_zero.command("score", run, scans, "--out", out, "--shared"))
    assert status == 0, said
    assert "waiting for 1 CPU: the cluster has 0 CPUs now; its autoscaler can add nodes" in said
    assert json.loads((out / "_SUCCESS.json").read_text())["rows"] == len(scores(out)) == 60
    assert len(from_zero.ever()) == 2


@long
def test_training_there_is_training_anywhere(from_zero: Cluster, run: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result_of(from_zero.command("train", "--data", scans, "--out", out, *SMALL, "--shared"))
    assert weights(out) == weights(run)
