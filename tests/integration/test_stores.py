"""Train, evaluate and score with every output in an object store, which is busy for a while in the middle."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brainscale.storage import remote
from brainscale.storage.remote import ObjectStore, filesystem_of, join_address
from tests.support.runs import SMALL, Invoke, scores, succeed, weights
from tests.support.stores import Gate, Server, gs_server, lasting_s3_server, make_bucket, options, place, s3_server

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def gate(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as port:
        gate = Gate(port)
        make_bucket(gate.address, "bucket")
        yield gate
        gate.close()


@pytest.fixture(scope="module")
def home(gate: Gate) -> str:
    return f"s3://bucket/work{options(gate.address)}"


def test_a_run_in_a_store_is_the_run_of_a_disk(home: str, gate: Gate, run: Path, scans: Path, invoke: Invoke) -> None:
    at = join_address(home, "run")
    train = ("train", "--data", scans, "--out", at, *SMALL)
    first = succeed(invoke(*train))
    assert "epoch 2/2" in first.stderr
    assert json.loads(ObjectStore(at).get("_SUCCESS.json"))["weights_sha256"] == weights(run)
    names = ObjectStore(at).names()
    assert {"config.yaml", "manifest.parquet", "history.parquet", "model/model.onnx"} <= names.keys()
    assert any(name.startswith("tensorboard/") for name in names)
    assert not [name for name in names if ".ray-" in name or ".owners" in name or name.endswith(".tmp")]
    again = succeed(invoke(*train))
    assert "was already complete" in again.stderr
    refused = invoke(*train, "--seed", 7)
    assert refused.exit_code == 1
    assert f"{at} holds a run with another configuration (train.seed is 42 there, 7 here)" in refused.stderr
    assert "equal" in succeed(invoke("verify", at, run)).stdout

    done = succeed(invoke("evaluate", at, "--json"))
    facts = json.loads(done.stdout)
    assert facts["out"] == join_address(at, "evaluation/test")
    assert facts["looks"] == 1
    assert {"evaluation/test/report.html", "evaluation/test/_SUCCESS.json", "test_looks.jsonl"} <= ObjectStore(
        at
    ).names().keys()
    assert "brainmrnet" in succeed(invoke("compare", at, run)).stdout


def test_scores_in_a_store_are_complete_whatever_the_store_does(
    home: str, gate: Gate, run: Path, scans: Path, tmp_path: Path, invoke: Invoke
) -> None:
    for path in scans.rglob("*.*"):
        with path.open("rb") as source:
            ObjectStore(join_address(home, "scans")).put(path.relative_to(scans).as_posix(), source)
    out, elsewhere = join_address(home, "scores"), tmp_path / "scores"
    score = ("score", run, join_address(home, "scans"), "--out", out, "--unit", "scan")
    gate.refused, gate.busy = 0, range(gate.asked + 14, gate.asked + 44)  # the listing passes; files and parts wait
    succeed(invoke(*score))
    assert gate.refused == len(gate.busy)
    succeed(invoke("score", run, scans, "--out", elsewhere))
    assert rows(out) == {row["sample_id"]: row["probability"] for row in scores(elsewhere)}
    names = ObjectStore(out).names()
    assert "_SUCCESS.json" in names
    assert not [name for name in names if name.endswith(".parquet") and not name.startswith("part-")]
    assert "scores.scans.parquet" in ObjectStore(home).names()

    part = next(name for name in names if name.startswith("part-"))
    lost = pq.read_table(filesystem_of(out)[0].open_input_file(f"{filesystem_of(out)[1]}/{part}")).num_rows
    ObjectStore(out).remove([part, "_SUCCESS.json"])  # as a killed job leaves a folder
    facts = json.loads(succeed(invoke(*score, "--json")).stdout)
    assert facts["rows_now"] == lost
    assert facts["rows"] == 60
    assert len(rows(out)) == 60


def test_google_s_store_is_one_like_any_other(run: Path, scans: Path, tmp_path: Path, invoke: Invoke) -> None:
    with gs_server(tmp_path / "log") as port:
        source, out = (place("gs", f"127.0.0.1:{port}", folder) for folder in ("scans", "scores"))
        for path in scans.rglob("*.*"):
            with path.open("rb") as file:
                ObjectStore(source).put(path.relative_to(scans).as_posix(), file)
        succeed(invoke("score", run, source, "--out", out))
        succeed(invoke("score", run, scans, "--out", tmp_path / "scores"))
        assert rows(out) == {row["sample_id"]: row["probability"] for row in scores(tmp_path / "scores")}
        assert "was already complete" in succeed(invoke("score", run, source, "--out", out)).stderr


def rows(out: str) -> dict[str, float]:
    filesystem, path = filesystem_of(out)
    found: dict[str, float] = {}
    for name in ObjectStore(out).names():
        if name.startswith("part-"):
            for row in pq.read_table(filesystem.open_input_file(f"{path}/{name}")).to_pylist():
                assert row["sample_id"] not in found
                found[row["sample_id"]] = row["probability"]
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with closing(lasting_s3_server(tmp_path)) as server:
        make_bucket(f"127.0.0.1:{server.port}", "bucket")
        yield server


def parts(out: str) -> int:
    return sum(name.startswith("part-") for name in ObjectStore(out).names())


def test_a_store_that_dies_in_the_middle_and_comes_back(
    run: Path, scans: Path, server: Server, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back soon: the job goes on by itself. Back late: one line, and the same command goes on."""
    home = place("s3", f"127.0.0.1:{server.port}", "dies")
    out, kept = join_address(home, "scores"), list[int]()

    def outage() -> None:
        while not parts(out):
            time.sleep(0.05)
        server.kill()
        time.sleep(3)
        server.start()
        kept.append(parts(out))

    sources = [shutil.copytree(scans, tmp_path / f"scans-{number}") for number in range(8)]
    trouble = threading.Thread(target=outage)
    trouble.start()
    facts = json.loads(succeed(invoke("score", run, *sources, "--out", out, "--json")).stdout)
    trouble.join()
    assert 0 < kept[0] < 8
    assert facts["rows"] == len(rows(out)) == 480

    late = ("score", run, scans, "--out", join_address(home, "late"))
    server.kill()
    with monkeypatch.context() as impatient:
        impatient.setattr(remote, "PAUSES", (0.1,))
        result = invoke(*late)
    assert result.exit_code == 1
    (line,) = [text for text in result.stderr.splitlines() if text.startswith("Error")]
    assert "cannot be read or written" in line
    assert "run the same command again" in line
    server.start()
    succeed(invoke(*late))
    assert len(rows(join_address(home, "late"))) == 60
