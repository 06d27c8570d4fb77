"""The whole way on a real Ray: index, split, train, evaluate, score, compare."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from brainscale.config.files import load_config, parse_config
from brainscale.evaluation.comparison import CONTROL
from brainscale.schema import HISTORY, MANIFEST, METRICS, PAIRS, PREDICTIONS
from brainscale.training.finish import finish_run
from brainscale.training.plane_store import PlaneStore, materialise_planes
from brainscale.training.run_folder import RunFolder
from tests.support.images import write_image
from tests.support.runs import SMALL, Invoke, scores, succeed, weights

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_a_run_holds_what_it_should(run: Path) -> None:
    names = {p.name for p in run.iterdir()}
    assert names >= {"config.yaml", "manifest.parquet", "history.parquet", "environment.json", "checkpoints"}
    assert names >= {"tensorboard", "model", "_SUCCESS.json"}
    assert {p.name for p in (run / "model").iterdir()} == {"model.safetensors", "model.onnx", "model.json", "README.md"}
    assert not list(run.rglob("*.tmp"))
    assert pq.read_schema(run / "manifest.parquet") == MANIFEST
    history = pq.read_table(run / "history.parquet")
    assert history.schema == HISTORY
    assert history["epoch"].to_pylist() == [1, 2]
    facts = json.loads((run / "_SUCCESS.json").read_text())
    sides = pq.read_table(run / "manifest.parquet")["split"].to_pylist()
    assert facts["samples"] == {side: sides.count(side) for side in ("train", "val", "test")}
    assert sum(facts["samples"].values()) == 60
    assert weights(run) == history["weights_sha256"][facts["best_epoch"] - 1].as_py()
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = [e.value for e in events.Scalars("val_loss")]
    assert losses == pytest.approx(history["val_loss"].to_pylist())
    assert "cpu" in json.loads((run / "environment.json").read_text())
    model = json.loads((run / "model" / "model.json").read_text())
    assert model["novelty_sha256"] is None
    assert model["novelty_source"] == f"none: it needs 20 validation samples, and there are {facts['samples']['val']}"


def test_planes_are_read_in_place(run: Path) -> None:
    """A worker sees a block in the memory of the object store: a column in one piece, of which nothing is copied."""
    config = load_config(None, ["data.image_size=64", "data.crop=1.0"])
    manifest = pq.read_table(run / "manifest.parquet")
    found = materialise_planes(manifest, config.data.preprocess, config.limits)
    ids = manifest["sample_id"].to_pylist()
    store, before = PlaneStore(found.locate(ids), 64), pa.total_allocated_bytes()
    store.hold(np.arange(len(ids)))
    assert pa.total_allocated_bytes() == before
    assert {block["plane"].num_chunks for block in ray.get(list(found.blocks.refs))} == {1}
    assert store.take(np.array([3, 0])).shape == (2, 64, 64)


def test_a_complete_run_is_left_alone(run: Path, scans: Path, invoke: Invoke) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert "was already complete" in succeed(invoke("train", "--data", scans, "--out", run, *SMALL)).stderr
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before


def test_another_configuration_or_other_data_is_refused(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("train", "--data", scans, "--out", run, *SMALL, "--seed", "7")
    assert result.exit_code == 1
    assert "a run with another configuration (train.seed is 42 there, 7 here): choose a new --out" in result.output
    fewer = tmp_path / "fewer"
    shutil.copytree(scans, fewer)
    next((fewer / "yes").iterdir()).unlink()
    result = invoke("train", "--data", fewer, "--out", run, *SMALL)
    assert result.exit_code == 1
    assert "a run on other data (files, labels or splits differ)" in result.output


def finished_again(run: Path, other: Path) -> Path:
    """A copy of a run as after a kill between the last epoch and the bundle, brought to its end."""
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("_SUCCESS.json", "model", "evaluation"))
    config = parse_config(yaml.safe_load((run / "config.yaml").read_text()))
    finish_run(RunFolder(other), config, pq.read_table(run / "manifest.parquet"), lambda text: None)
    return other


def test_the_end_of_a_run_needs_nothing_but_its_folder(run: Path, tmp_path: Path) -> None:
    other = finished_again(run, tmp_path / "run")
    assert weights(other) == weights(run)
    assert {p.name for p in (other / "model").iterdir()} == {p.name for p in (run / "model").iterdir()}
    for name in ("model.safetensors", "model.onnx"):
        assert (other / "model" / name).read_bytes() == (run / "model" / name).read_bytes()


def test_novelty_comes_with_every_score(
    run: Path, scans: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brainscale.training.novelty.MIN_VALIDATION", 5)
    model = finished_again(run, tmp_path / "run")
    assert (model / "model" / "novelty.safetensors").stat().st_size < 100_000
    assert (run / "model" / "model.json").read_bytes() != (model / "model" / "model.json").read_bytes()
    images = tmp_path / "images"
    shutil.copytree(scans, images)
    Image.fromarray(np.zeros((160, 160), np.uint8)).save(images / "empty.png")
    (images / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    out = tmp_path / "scores"
    found = json.loads(succeed(invoke("score", model, images, "--out", out, "--unit", "scan", "--json")).stdout)
    rows = {str(row["sample_id"]): row for row in scores(out)}
    assert rows["torn.png"]["novelty"] is None
    assert rows["empty.png"]["novelty"] == 1
    novelty = [row["novelty"] for name, row in rows.items() if name != "torn.png"]
    assert all(0 <= value <= 1 for value in novelty)  # type: ignore[operator]
    assert 1 <= found["unusual"] == sum(value >= 0.99 for value in novelty) < len(novelty)  # type: ignore[operator]
    assert found["novelty"] == json.loads((model / "model" / "model.json").read_text())["novelty_sha256"]
    again = invoke("score", model, images, "--out", out)  # complete: the count is in the folder
    assert f"{found['unusual']} of {len(novelty)} samples" in again.stdout
    of_scans = pq.read_table(found["units_file"])
    by_scan = dict(zip(of_scans["scan"].to_pylist(), of_scans["novelty"].to_pylist(), strict=True))
    assert by_scan["yes/" + min(path.name for path in (scans / "yes").iterdir())] is not None
    for engine in ("onnx", "torch"):
        folder = tmp_path / engine
        told = succeed(invoke("evaluate", model, "--split", "val", "--engine", engine, "--out", folder)).stdout
        table = pq.read_table(folder / "predictions.parquet")
        expected = [rows[name]["novelty"] for name in table["sample_id"].to_pylist()]
        assert np.allclose(table["novelty"], expected, atol=1e-4)
        assert max(table["novelty"].to_pylist()) == pytest.approx(1, abs=1e-4)
        assert "more unusual than 99 % of the validation samples" in told
        assert "Unusual samples" in (folder / "report.html").read_text()


def test_evaluate_and_compare(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = json.loads(succeed(invoke("evaluate", run, "--split", "test", "--json")).stdout)
    folder = Path(result["out"])
    assert folder == run / "evaluation" / "test"
    predictions, figures = pq.read_table(folder / "predictions.parquet"), pq.read_table(folder / "metrics.parquet")
    assert predictions.schema == PREDICTIONS
    assert figures.schema.equals(METRICS)
    sides = pq.read_table(run / "manifest.parquet")["split"].to_pylist()
    assert len(predictions) == sides.count("test")
    right = np.mean([r["label"] == r["prediction"] for r in predictions.to_pylist()])
    assert result["metrics"]["accuracy"] == pytest.approx(right)
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "_SUCCESS.json").exists()

    other = tmp_path / "by-source"  # the source's own listing gets the run's split, content by content
    succeed(invoke("evaluate", run, "--data", scans, "--split", "test", "--out", other, "--engine", "torch"))
    again = pq.read_table(other / "predictions.parquet")
    assert again["sample_id"] == predictions["sample_id"]
    assert np.allclose(again["probability"], predictions["probability"], atol=1e-5)

    table = succeed(invoke("compare", run, other, "--out", tmp_path / "t.parquet"))
    headings = next(line for line in table.stdout.splitlines() if line.startswith("Model"))
    assert headings.split()[:4] == ["Model", "Accuracy", "AUROC", "Sensitivity"]
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert "AUROC A − B" in table.stdout  # paired tests, since both saw the same samples
    models = pq.read_table(tmp_path / "t.parquet")["model"].to_pylist()
    assert models[:2] == ["brainmrnet", "brainmrnet"]
    assert "different samples" not in table.output
    paired = pq.read_table(tmp_path / "t-pairs.parquet")
    assert paired.schema.equals(PAIRS)
    assert len(paired) == (3 if CONTROL in models else 1)
    markdown = succeed(invoke("compare", run, other, "--markdown")).stdout.splitlines()
    assert any(line.startswith("| Model | Accuracy (95 % CI) | AUROC (95 % CI) |") for line in markdown)
    assert any(line.startswith("| A | B | AUROC A − B |") for line in markdown)
    bad = invoke("evaluate", run, "--split", "holdout")
    assert bad.exit_code == 1
    assert "no split named 'holdout': choose train, val, test or all" in bad.output


def test_rays_token_is_its_owners_alone(ray_cluster: None) -> None:
    token = Path.home() / ".ray" / "auth_token"
    if not token.exists():
        pytest.skip("NOT TESTED: this Ray runs without a token file")
    assert token.stat().st_mode & 0o077 == 0


ASK = "import sys; from ray._raylet import GcsClient; print(len(GcsClient(sys.argv[1]).get_all_node_info(timeout=9)))"


@pytest.mark.parametrize(
    ("given", "served"), [({}, True), ({"RAY_AUTH_TOKEN": "0" * 64}, False), ({"RAY_AUTH_MODE": "disabled"}, False)]
)
def test_a_local_ray_serves_nobody_without_its_token(ray_cluster: None, given: dict[str, str], served: bool) -> None:
    address = ray.get_runtime_context().gcs_address
    asked = subprocess.run(
        [sys.executable, "-c", ASK, address], env={**os.environ, **given}, capture_output=True, text=True
    )
    assert (asked.stdout == "1\n") is served, asked.stderr
    assert ("authentication" in asked.stderr) is not served


def mixed(folder: Path) -> Path:
    """Five images, a text file, an empty one and a torn one."""
    for i in range(5):
        write_image(folder / f"{i}.png", seed=i)
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:90])
    return folder


def test_every_input_is_one_row(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, out = mixed(tmp_path / "scans"), tmp_path / "scores"
    facts = json.loads(succeed(invoke("score", run, source, "--out", out, "--json")).stdout)
    assert (facts["rows"], facts["scored"]) == (8, 5)
    assert facts["errors"] == {"corrupt": 1, "empty_file": 1, "unsupported_format": 1}
    rows = scores(out)
    assert [r["sample_id"] for r in rows] == sorted(p.name for p in source.iterdir())
    for row in rows:
        assert (row["probability"] is None) == (row["error_code"] is not None)
        assert row["model"] == weights(run)
    assert json.loads((out / "_SUCCESS.json").read_text())["rows"] == 8

    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert "was already complete" in succeed(invoke("score", run, source, "--out", out)).stderr
    write_image(tmp_path / "more" / "new.png")
    again = succeed(invoke("score", run, tmp_path / "more", "--out", out, "--json"))
    assert json.loads(again.stdout)["files_not_in_it"] == 1
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before

    other = tmp_path / "torch"
    succeed(invoke("score", run, source, "--out", other, "--engine", "torch", "--workers", "2"))
    ours = [r["probability"] for r in rows if r["probability"] is not None]
    theirs = [r["probability"] for r in scores(other) if r["probability"] is not None]
    assert np.allclose(ours, theirs, atol=1e-5)


def test_scoring_goes_on_where_it_stopped(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, out = mixed(tmp_path / "scans"), tmp_path / "scores"
    late = source / "3.png"
    late.rename(tmp_path / "later.png")
    succeed(invoke("score", run, source, "--out", out))
    first = {p.name for p in out.glob("part-*")}
    (out / "_SUCCESS.json").unlink()  # as if killed before the end
    (tmp_path / "later.png").rename(late)
    said = succeed(invoke("score", run, source, "--out", out)).stderr
    assert "1 file(s) are new since this job began and are left out: --update scores them too" in said
    assert {p.name for p in out.glob("part-*")} == first
    succeed(invoke("score", run, source, "--out", out, "--update"))
    assert [r["sample_id"] for r in scores(out)] == sorted(p.name for p in source.iterdir())
    assert not list(out.glob("*.tmp"))


def test_rows_of_other_sources_are_refused_before_any_work(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    succeed(invoke("score", run, mixed(tmp_path / "scans"), "--out", out))
    (out / "_SUCCESS.json").unlink()
    before = sorted(out.iterdir())
    write_image(tmp_path / "others" / "new.png")
    result = invoke("score", run, tmp_path / "others", "--out", out)
    assert result.exit_code == 1
    assert "holds scores of 8 file(s) that are not in these sources, for example '0.png'" in result.output
    assert sorted(out.iterdir()) == before


def test_scores_of_another_model_are_not_mixed(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    source, out = mixed(tmp_path / "scans"), tmp_path / "scores"
    succeed(invoke("score", run, source, "--out", out))
    (listing,) = (out / "_listing").glob("*.json")
    facts = json.loads(listing.read_text())
    listing.write_text(json.dumps({**facts, "identity": {**facts["identity"], "model": "other"}}))
    result = invoke("score", run, source, "--out", out)
    assert result.exit_code == 1
    assert "holds scores with another model (other there, " in result.output
    listing.write_text(json.dumps(facts))
    (out / "_SUCCESS.json").unlink()
    next(out.glob("part-*")).write_bytes(b"garbage")
    assert "delete it, and its rows will be scored again" in invoke("score", run, source, "--out", out).output


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: None, "holds no files"),
        (lambda f: (f / "a.txt").write_text("x"), "none of the 1 file(s) in"),
        (lambda f: [write_image(f / "yes" / f"{i}.png", i) for i in range(9)], "have the label 'tumour'"),
        (lambda f: [write_image(f / d / f"{i}.png", i) for d in ("yes", "cats") for i in range(3)], "have no label"),
        (lambda f: [write_image(f / d / "1.png", len(d)) for d in ("yes", "no")], "add images of this label"),
    ],
    ids=["empty", "unreadable", "one-class", "unknown-class", "too-few"],
)
def test_data_that_cannot_train(invoke: Invoke, tmp_path: Path, make: Callable[[Path], object], text: str) -> None:
    source, out = tmp_path / "data", tmp_path / "run"
    source.mkdir()
    make(source)
    result = invoke("train", "--data", source, "--out", out, *SMALL)
    assert result.exit_code == 1
    assert text in result.output
    *begun, error = (line.split()[0] for line in result.output.splitlines())
    assert (begun in ([], ["Training", "Indexing"]), error) == (True, "Error:")
    assert not out.exists()


def test_folders_of_others_are_left_alone(run: Path, scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for arguments in (
        ["train", "--data", scans, *SMALL],
        ["evaluate", run],
        ["score", run, scans],
        ["demo"],
    ):
        result = invoke(*arguments, "--out", tmp_path)
        assert result.exit_code == 1
        assert "holds other files" in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    result = invoke("score", run, scans, "--out", tmp_path / "thesis.tex")
    assert result.exit_code == 2
    assert "scores are written to a folder, or to a file ending in .parquet or .csv" in result.output
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_nothing_readable_to_index_or_score(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    result = invoke("index", tmp_path / "in", "--out", tmp_path / "m.parquet")
    assert result.exit_code == 1
    assert "none of the 1 file(s)" in result.output
    assert not (tmp_path / "m.parquet").exists()
    result = invoke("score", run, tmp_path / "in", "--out", tmp_path / "s")
    assert result.exit_code == 1
    assert "1 of 1 sample(s) could not be scored (unsupported_format 1), more than --fail-above 0.5" in result.output
    assert [row["error_code"] for row in scores(tmp_path / "s")] == ["unsupported_format"]
    assert (tmp_path / "s" / "_SUCCESS.json").exists()


def test_more_workers_than_the_cluster_has(scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    many = ["--workers", "16", "--set", "train.micro_batch=4", "--set", "train.batch_size=64", "--epochs", "1"]
    result = invoke("train", "--data", scans, "--out", tmp_path / "run", *many)
    assert result.exit_code == 1
    assert "16 workers need 16 CPUs, but the cluster has" in result.output
    result = invoke("train", "--data", scans, "--out", tmp_path / "run", "--device", "cuda", *SMALL)
    assert "1 worker needs 1 GPU, but the cluster has 0" in result.output


def test_a_loss_that_explodes_stops_with_its_step(scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("train", "--data", scans, "--out", tmp_path / "r", *SMALL, "--set", "train.learning_rate=1e30")
    assert result.exit_code == 1
    assert "Error: the loss is not finite at epoch 1, step " in result.output
    assert "lower train.learning_rate, or check these samples (there is no checkpoint yet)" in result.output
    assert not (tmp_path / "r" / "_SUCCESS.json").exists()


def test_labels_from_a_file(invoke: Invoke, tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / "scans" / f"{i}.png", seed=i)
    (tmp_path / "labels.csv").write_text("site,sample_id,label\nA,0.png,yes\nB,1.png,no_tumour\n")
    arguments = ["index", tmp_path / "scans", "--out", tmp_path / "m.parquet", "--labels", tmp_path / "labels.csv"]
    succeed(invoke(*arguments))
    assert pq.read_table(tmp_path / "m.parquet")["label"].to_pylist() == ["tumour", "no_tumour", None]
    (tmp_path / "labels.csv").write_text(
        "sample_id,label,patient\n0.png,yes,Doe^John\n1.png,no,Doe^John\n2.png,no,Roe\n"
    )
    succeed(invoke(*arguments))
    one, other, third = pq.read_table(tmp_path / "m.parquet").to_pylist()
    assert one["patient"] == other["patient"] != third["patient"]
    assert "Doe" not in one["patient"]
    assert one["group"] == other["group"] != third["group"]
    for text, message in (
        ("sample_id,label\n0.png,cat\n", "unknown label 'cat' of '0.png' in "),
        ("sample_id,label\n9.png,yes\n", "labels '9.png', which is not in the sources"),
        ("name,label\n0.png,yes\n", "has no column 'sample_id' (its columns are name, label): name the column"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert message in result.output


def test_files_that_changed_since_they_were_indexed(scans: Path, invoke: Invoke, tmp_path: Path) -> None:
    shutil.copytree(scans, tmp_path / "scans")
    succeed(invoke("index", tmp_path / "scans", "--out", tmp_path / "m.parquet"))
    changed = min((tmp_path / "scans" / "no").iterdir())
    write_image(changed, seed=99)
    arguments = ["train", "--data", tmp_path / "split.parquet", "--out", tmp_path / "run", *SMALL]
    # whether it stands in the test part or not depends on the split, so it is named for every side that trains
    refused = invoke("split", tmp_path / "m.parquet", "--test", "0", "--out", tmp_path / "m.parquet")
    assert "is an input of this command: --overwrite replaces it, or choose another --out" in refused.output
    succeed(invoke("split", tmp_path / "m.parquet", "--test", "0", "--out", tmp_path / "split.parquet"))
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert f"'no/{changed.name}' changed after it was indexed: index the source again" in result.output


def test_real_scans(real_scans: Path, run: Path, invoke: Invoke, tmp_path: Path) -> None:
    facts = json.loads(succeed(invoke("index", real_scans, "--out", tmp_path / "m.parquet", "--json")).stdout)
    assert (facts["files"], facts["samples"], facts["errors"]) == (253, 253, {})
    assert facts["labels"] == {"no_tumour": 98, "tumour": 155}
    assert (facts["groups"], facts["byte_identical_copies"]) == (199, 25)
    table = pq.read_table(tmp_path / "m.parquet")
    assert str(real_scans) not in "".join(table["sample_id"].to_pylist())
    facts = json.loads(succeed(invoke("score", run, real_scans, "--out", tmp_path / "s", "--json")).stdout)
    rows = scores(tmp_path / "s")
    assert len(rows) == len({r["sample_id"] for r in rows}) == facts["scored"] == 253
