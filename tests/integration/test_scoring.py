"""Bulk scoring: one row for each input, exactly once, whatever is killed, full or gone.

BRAINSCALE_KILLS=10 makes twice as many more, each with a kill at a random moment (`make kills`).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from brainscale.errors import OutputError
from brainscale.models import graphs
from brainscale.models.bundle import open_bundle
from brainscale.models.engines import EngineOptions, describe_arithmetic
from brainscale.reading.pseudonyms import hide_id, pseudonym
from brainscale.schema import PREDICTIONS
from brainscale.schema import SCANS as SCAN_ROWS
from brainscale.scoring.bulk import score_files
from brainscale.scoring.result import Amount
from brainscale.storage.local import read_success
from tests.support.images import write_image
from tests.support.processes import SECONDS, beside, kill, part_of, started, wait_for
from tests.support.runs import Invoke, invoke, scores, succeed, weights

ON_RAY = ("--workers", "1")  # what this test scores would not need it
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
KILLS = int(os.environ.get("BRAINSCALE_KILLS", "0"))
INPUTS = 4000  # some seconds of work, so that what is killed is still at work
Row = dict[str, object]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 inputs in a folder and in a zip file within it, of which every tenth cannot be read."""
    folder = tmp_path_factory.mktemp("archive")
    kinds = [write_image(folder / "kinds" / f"{i}.png", seed=i).read_bytes() for i in range(40)]
    shutil.rmtree(folder / "kinds")
    damaged = [b"", b"no image", kinds[0][:90], b"\xff\xd8\xff" + b"x" * 50]

    def content(i: int) -> bytes:
        return damaged[i // 10 % 4] if i % 10 == 0 else kinds[i % 40]

    with zipfile.ZipFile(folder / "some.zip", "w") as file:
        for i in range(400):
            file.writestr(f"m{i:04}.png", content(i))
    for i in range(400, INPUTS):
        (folder / f"{i:04}.png").write_bytes(content(i))
    return folder


@pytest.fixture(scope="module")
def untouched(run: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a job that nobody disturbed."""
    out = tmp_path_factory.mktemp("untouched") / "scores"
    succeed(invoke("score", run, archive, "--out", out))
    return scores(out)


@pytest.fixture(scope="module")
def seconds(run: Path, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """What such a job takes, with its Ray."""
    began, out = time.monotonic(), tmp_path_factory.mktemp("timed") / "scores"
    subprocess.run(command(run, archive, out, *ON_RAY), check=True, capture_output=True)
    return time.monotonic() - began


def command(run: Path, source: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "brainscale", "score", str(run), str(source), "--out", str(out), *more]


def assert_same(out: Path, untouched: list[Row]) -> None:
    """Every row once, with the values of the untouched job, and a folder that says so."""
    rows = scores(out)
    assert [r["sample_id"] for r in rows] == [r["sample_id"] for r in untouched]
    for row, other in zip(rows, untouched, strict=True):
        assert (row["sha256"], row["error_code"], row["model"]) == (
            other["sha256"],
            other["error_code"],
            other["model"],
        )
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-6)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows"] == len(untouched)
    assert not list(out.glob("*.tmp"))


def test_4000_inputs_are_4000_rows(run: Path, untouched: list[Row]) -> None:
    assert len(untouched) == len({r["sample_id"] for r in untouched}) == INPUTS
    errors = [r for r in untouched if r["error_code"]]
    assert len(errors) == INPUTS // 10
    assert {r["error_code"] for r in errors} == {"empty_file", "unsupported_format", "corrupt"}
    for row in untouched:
        assert (row["probability"] is None) == (row["error_code"] is not None) == (row["error"] is not None)
        assert row["model"] == weights(run)


def test_a_long_job_chooses_its_graph(run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "LONG_PIXELS", 0)
    score_files(str(run), [str(scans)], str(tmp_path / "chosen"))
    chosen = graphs.read_choice(open_bundle(run).info)  # an engine kept it
    assert chosen is not None
    metadata = pq.read_schema(next((tmp_path / "chosen").glob("part-*"))).metadata
    assert metadata[b"arithmetic"].decode() == describe_arithmetic(EngineOptions(name="onnx"), chosen)
    monkeypatch.undo()
    score_files(str(run), [str(scans)], str(tmp_path / "own"))
    of_chosen, own = scores(tmp_path / "chosen"), scores(tmp_path / "own")
    assert [row["sample_id"] for row in of_chosen] == [row["sample_id"] for row in own]
    assert [row["probability"] for row in of_chosen] == pytest.approx([row["probability"] for row in own], abs=1e-5)


def test_kill_after_kill_leaves_every_row_once(run: Path, archive: Path, untouched: list[Row], tmp_path: Path) -> None:
    """Ctrl-C and kill -9 after a part each, without Ray and on it, then of the actor: that job goes on itself."""
    out = tmp_path / "scores"

    def parts() -> int:
        return len(list(out.glob("part-*")))

    for more in ((), ON_RAY):
        before = parts()
        with started(command(run, archive, out, *more)) as process:
            wait_for(lambda before=before: parts() > before, process)  # type: ignore[misc]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=SECONDS)
            assert process.returncode == 1
            assert "Error: stopped; to resume, run again: brainscale score " in said
        assert not (out / "_SUCCESS.json").exists()
    for kind, more in (("driver", ()), ("raylet", ON_RAY), ("driver", ON_RAY)):
        before = parts()
        with started(command(run, archive, out, *more)) as process:
            wait_for(lambda before=before: parts() > before, process)  # type: ignore[misc]
            assert kill(process.pid, kind), process.communicate()
            process.wait(SECONDS)
            assert process.returncode != 0
        assert not (out / "_SUCCESS.json").exists()
    before = parts()
    with beside(lambda: wait_for(lambda: kill(os.getpid(), "worker"))):
        succeed(invoke("score", run, archive, "--out", out))
    assert parts() > before
    assert_same(out, untouched)


@pytest.mark.skipif(not KILLS, reason="the long form: make kills")
@pytest.mark.parametrize("number", range(2 * KILLS))
def test_a_kill_at_a_random_moment_leaves_every_row_once(
    number: int, run: Path, archive: Path, untouched: list[Row], seconds: float, tmp_path: Path
) -> None:
    """Of an undisturbed job's time: about what is left of it once the part that dies is there."""
    out = tmp_path / "scores"
    kinds = (("driver", 0.9, ()), ("worker", 0.2, ON_RAY), ("driver", 0.9, ON_RAY), ("raylet", 0.7, ON_RAY))
    kind, left, more = kinds[number % 4]
    with started(command(run, archive, out, *more)) as process:
        wait_for(lambda: part_of(process.pid, kind), process)
        time.sleep(random.Random(number).uniform(0, left * seconds))  # noqa: S311 (no secret)
        found = kill(process.pid, kind)
        process.wait(SECONDS)
    parts = len(list(out.glob("part-*")))
    print(f"{kind} {'killed' if found else 'had ended'}; {parts} parts; status {process.returncode}")  # noqa: T201
    done = subprocess.run(command(run, archive, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(out, untouched)


def test_a_full_disk_is_one_line_and_the_job_goes_on_once_there_is_room(
    run: Path, archive: Path, untouched: list[Row], tmp_path: Path
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = [sys.executable, "-m", "tests.support.small_disk", run, archive, disk, kept]
    done = subprocess.run(["unshare", "-rm", *script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("NOT TESTED: no small disk can be mounted here")
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [outcome["status"] for outcome in outcomes] == [1, 1, 1, 0]
    lines = [line for outcome in outcomes for line in outcome["said"].splitlines() if line.startswith("Error:")]
    assert len(lines) == 3, lines  # full in the middle, full from the start, read-only
    assert lines[2].endswith("scores cannot be written (permission denied): give another path")
    for line in lines[:2]:
        assert "cannot be written (No space left on device): make room and " in line
        assert line.endswith("run the same command again to resume")
    assert "Traceback" not in done.stderr + done.stdout
    assert_same(kept, untouched)


@pytest.mark.parametrize("count", [10, 200])  # of one part, which is written by then, and of several
def test_two_jobs_on_one_folder_need_no_owner(count: int, run: Path, tmp_path: Path) -> None:
    """While a job runs, another begins on its folder and ends: both end well, with the same rows."""
    source, out = tmp_path / "scans", tmp_path / "scores"
    for i in range(count):
        write_image(source / f"{i:03}.png", seed=i)
    ended: list[dict[str, Any]] = []

    def begin_another(done: Amount) -> None:
        if not ended:
            ended.append({})
            ended[0].update(score_files(str(run), [str(source)], str(out)).to_json())

    assert score_files(str(run), [str(source)], str(out), on_part=begin_another).rows == count
    ids = [r["sample_id"] for r in scores(out)]
    assert len(ids) == len(set(ids)) == ended[0]["rows"] == count
    assert read_success(out)


def test_an_output_that_vanishes_is_one_line(run: Path, archive: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "scores", tmp_path / "elsewhere"

    def move_it(done: Amount) -> None:
        if not elsewhere.exists():
            shutil.move(out, elsewhere)

    with pytest.raises(OutputError, match=r"^[^\n]* cannot be written \(No such file or directory\)[^\n]*$"):
        score_files(str(run), [str(archive)], str(out), on_part=move_it)


def test_new_files_are_added_by_update(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, out = tmp_path / "scans", tmp_path / "scores"
    for i in range(4):
        write_image(source / f"{i}.png", seed=i)
    succeed(invoke("score", run, source, "--out", out))
    write_image(source / "new.png", seed=9)
    assert json.loads(succeed(invoke("score", run, source, "--out", out, "--json")).stdout)["files_not_in_it"] == 1
    facts = json.loads(succeed(invoke("score", run, source, "--out", out, "--update", "--json")).stdout)
    assert facts["rows"] == 5
    assert facts["rows_now"] <= 5  # the block that it fell into
    assert [r["sample_id"] for r in scores(out)] == ["0.png", "1.png", "2.png", "3.png", "new.png"]
    assert "files_not_in_it" not in succeed(invoke("score", run, source, "--out", out, "--json")).stdout


def test_a_manifest_is_a_source(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, manifest, out = tmp_path / "scans", tmp_path / "m.parquet", tmp_path / "scores"
    for i in range(3):
        write_image(source / f"{i}.png", seed=i)
    with zipfile.ZipFile(source / "z.zip", "w") as file:
        file.write(source / "0.png", "a.png")
        file.write(source / "1.png", "b.png")
    succeed(invoke("index", source, "--out", manifest))
    with zipfile.ZipFile(source / "z.zip", "w") as file:  # since then, b is gone, and c came
        file.write(source / "0.png", "a.png")
        file.write(source / "1.png", "c.png")
    write_image(source / "3.png", seed=3)  # and so did this
    succeed(invoke("score", run, manifest, "--out", out))
    assert {r["sample_id"]: r["error_code"] for r in scores(out)} == {
        "0.png": None,
        "1.png": None,
        "2.png": None,
        "z.zip!a.png": None,
        "z.zip!b.png": "gone",
    }
    result = invoke("score", run, manifest, source, "--out", tmp_path / "other")
    assert result.exit_code == 2
    assert "is a manifest and must be the only source: score it in a separate command" in result.output


def test_scans_heatmaps_and_another_threshold(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    out, pictures = tmp_path / "scores", tmp_path / "pictures"
    arguments = ["score", run, scans, "--out", out, "--unit", "scan", "--threshold", "0", "--heatmaps", pictures]
    facts = json.loads(succeed(invoke(*arguments, "--max-heatmaps", "3", "--json")).stdout)
    rows = scores(out)
    assert {r["prediction"] for r in rows} == {"tumour"}
    assert (facts["unit"], facts["units"], facts["heatmaps"]) == ("scan", 60, 3)
    assert facts["units_file"] == f"{out}.scans.parquet"
    table = pq.read_table(facts["units_file"])
    assert table.schema == SCAN_ROWS
    highest = table["maximum"].cast(pa.float32()).to_pylist()
    assert highest == sorted((r["probability"] for r in rows), reverse=True)
    assert table["prediction"].null_count == 60  # single images gave the model no operating point of scans
    drawn = pq.read_table(pictures / "heatmaps.parquet").to_pylist()
    assert [r["sample_id"] for r in drawn] == table["sample_id"].to_pylist()[:3]
    assert {p.name for p in pictures.glob("*.png")} == {r["file"] for r in drawn}
    assert "key_file" not in facts  # a series is called by a sample of it
    other = invoke("score", run, scans, "--out", out, "--threshold", "0.5")
    assert other.exit_code == 1
    assert "holds scores with another threshold (0.0 there, 0.5 here)" in other.output


def test_names_are_hashed_alike_in_every_run(
    run: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `index --hash-paths` hashes them with the same key; a stopped job finds what is done."""
    source, out, manifest = tmp_path / "scans", tmp_path / "scores", tmp_path / "m.parquet"
    image = write_image(source / "meier_hans.png").read_bytes()
    write_image(source / "meier_eva.png", seed=1)
    with zipfile.ZipFile(source / "huber.zip", "w") as file:
        file.writestr("huber_max.png", image)
        file.writestr("huber_ida.png", b"no image")
    score = ("score", run, source, "--out", out, "--hash-paths")
    facts = json.loads(
        succeed(invoke(*score, "--heatmaps", tmp_path / "pictures", "--threshold", "0", "--json")).stdout
    )
    rows = scores(out)
    key = Path(facts["key_file"])
    secret = key.read_bytes()
    assert key.stat().st_mode & 0o077 == 0
    files = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert not any(secret in data or bytes.fromhex(secret.decode()) in data or b"meier" in data for data in files)
    assert {row["sample_id"] for row in rows} == {
        hide_id(i, secret)
        for i in ("meier_hans.png", "meier_eva.png", "huber.zip!huber_max.png", "huber.zip!huber_ida.png")
    }
    assert {row["uri"] for row in rows} == {"hidden"}
    assert {row["member"] for row in rows} == {
        None,
        pseudonym("huber_max.png", secret),
        pseudonym("huber_ida.png", secret),
    }
    assert facts["heatmaps"] == 3
    succeed(invoke("index", source, "--out", manifest, "--hash-paths", "--patient-key", key))
    assert pq.read_table(manifest)["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    again = ("--threshold", "0", "--json")
    (out / "_SUCCESS.json").unlink()
    assert json.loads(succeed(invoke(*score, *again)).stdout)["rows_now"] == 0
    write_image(source / "new.png", seed=2)
    facts = json.loads(succeed(invoke(*score, "--update", *again)).stdout)
    assert facts["rows"] == 5
    other = invoke("score", run, source, "--out", out, *again)
    assert other.exit_code == 1
    assert "holds scores with another hash_paths (true there, false here): choose a new --out" in other.output


def test_without_its_key_a_complete_folder_stays_and_another_one_is_refused(
    run: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine."""
    source, out = tmp_path / "scans", tmp_path / "scores"
    write_image(source / "1.png")
    score = ("score", run, source, "--out", out, "--hash-paths")
    kept = json.loads(succeed(invoke(*score, "--json")).stdout)["key_file"]
    rows = scores(out)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert "key_file" not in json.loads(succeed(invoke(*score, "--json")).stdout)
    (out / "_SUCCESS.json").unlink()
    refused = invoke(*score)
    assert refused.exit_code == 1
    assert "The key of the hashes in" in refused.output
    assert "is not on this machine. Pass --patient-key FILE, or set BRAINSCALE_PATIENT_KEY, or choose" in refused.output
    write_image(source / "2.png")
    succeed(invoke(*score, "--update", "--patient-key", kept))
    assert [row for row in scores(out) if row["sample_id"] == rows[0]["sample_id"]] == rows


def test_everybody_reads_the_folder_as_one_table(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    succeed(invoke("score", run, scans, "--out", out, "--unit", "scan"))
    assert len(pads.dataset(out, format="parquet").to_table()) == 60
    assert [path.parent for path in out.rglob("*.parquet")] == [out] * len(list(out.glob("part-*")))
    assert len(pd.read_parquet(out)) == 60
    parts = f"{out}/part-*.parquet"
    called = "SELECT prediction, count(*), max(probability) FROM read_parquet(?) GROUP BY 1"
    counted = duckdb.execute(called, [parts]).fetchall()
    assert sum(count for _, count, _ in counted) == 60
    frame = pl.read_parquet(parts)
    assert frame.height == frame["sample_id"].n_unique() == 60
    part = pq.ParquetFile(next(out.glob("part-*")))
    assert part.schema_arrow.equals(PREDICTIONS)
    metadata = {k.decode(): v.decode() for k, v in part.schema_arrow.metadata.items()}
    assert json.loads(metadata["classes"]) == ["no_tumour", "tumour"]
    assert (metadata["model"], metadata["threshold"]) == (weights(run), "0.5")
    assert metadata["brainscale"]
    column = part.metadata.row_group(0).column(PREDICTIONS.names.index("model"))
    assert column.compression == "ZSTD"
    assert "RLE_DICTIONARY" in column.encodings
