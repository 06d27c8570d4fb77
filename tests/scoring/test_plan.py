"""Dry runs of scoring: what is left is what a job would score, nothing is written, and refusals are its own."""

import json
from pathlib import Path

import pytest

from brainscale.errors import BundleError, OutputError, SourceError, UsageError
from brainscale.models.bundle import Bundle
from brainscale.reading.keys import kept_key_file
from brainscale.scoring.bulk import score_files
from brainscale.scoring.plan import plan_scoring
from brainscale.scoring.plan_text import format_scoring_plan
from brainscale.scoring.single_file import score_to
from tests.support.images import write_image
from tests.support.runs import Invoke, succeed


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brainscale.scoring.duration.ENGINE_SECONDS", 0.0)


@pytest.fixture(name="images")
def write_images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        write_image(folder / f"{number}.png", seed=number)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_new_job_reads_all_files_and_writes_nothing(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    out = tmp_path / "out"
    plan = plan_scoring(str(bundle.folder), [str(images)], str(out), unit="scan", hash_paths=True, threshold=0.4)
    assert contents(tmp_path) == before
    assert not out.exists()
    assert not kept_key_file(str(out)).exists()
    assert (plan.state, plan.total.files, plan.left.files) == ("new", 3, 3)
    assert plan.total.nbytes == sum(path.stat().st_size for path in images.iterdir())
    assert (plan.model.threshold, plan.model.threshold_source) == (0.4, "--threshold")
    assert plan.others == {"scans": f"{out}.scans.parquet", "key of the hashes": str(kept_key_file(str(out)))}
    assert plan.workplace is not None
    assert (plan.workplace.ray, plan.workplace.engine) == ("none", "onnx")
    assert plan.duration is not None
    assert plan.duration.total_seconds > 0
    assert "nothing of this job is there yet" in format_scoring_plan(plan)


def test_a_begun_folder_is_continued_and_a_complete_one_left(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    model, sources, out = str(bundle.folder), [str(images)], str(tmp_path / "out")
    score_files(model, sources, out)
    assert plan_scoring(model, sources, out).state == "complete"
    write_image(images / "3.png", seed=3)
    (tmp_path / "out" / "_SUCCESS.json").unlink()
    before = contents(tmp_path)
    plan = plan_scoring(model, sources, out)
    assert (plan.state, plan.total.files, plan.left.files, plan.files_left_out) == ("begun", 3, 0, 1)
    extended = plan_scoring(model, sources, out, update=True)
    assert (extended.total.files, extended.left.files, extended.files_left_out) == (4, 1, 0)
    assert "resumes, with 3 of 4 files done" in format_scoring_plan(extended)
    write_image(images / "0.png", seed=9)
    (images / "0.png").write_bytes((images / "0.png").read_bytes() + b"more")
    assert plan_scoring(model, sources, out).left.files == 1
    assert {name: data for name, data in contents(tmp_path).items() if "0.png" not in name} == {
        name: data for name, data in before.items() if "0.png" not in name
    }


def test_a_single_file_is_planned_as_it_is_written(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    model, sources, out = str(bundle.folder), [str(images)], str(tmp_path / "scores.parquet")
    plan = plan_scoring(model, sources, out, unit="scan", heatmaps=str(tmp_path / "maps"))
    assert plan.others == {"scans": str(tmp_path / "scores.scans.parquet"), "heatmaps": str(tmp_path / "maps")}
    score_to(model, sources, out)
    assert plan_scoring(model, sources, out).state == "complete"
    with pytest.raises(OutputError, match="scores.parquet exists, and it is not the finished work of this job"):
        plan_scoring(model, sources, out, threshold=0.3)
    assert plan_scoring(model, sources, out, threshold=0.3, overwrite=True).state == "new"


def test_what_a_job_refuses_its_plan_refuses(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    model, sources, out = str(bundle.folder), [str(images)], str(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files and no scores"):
        plan_scoring(model, sources, str(tmp_path / "mine"))
    with pytest.raises(UsageError, match="unknown engine 'abacus'"):
        plan_scoring(model, sources, out, engine="abacus")
    with pytest.raises(UsageError, match="--overwrite is for a single file"):
        plan_scoring(model, sources, out, overwrite=True)
    with pytest.raises(UsageError, match="Patients need a key"):
        plan_scoring(model, sources, out, unit="patient")
    with pytest.raises(SourceError, match="does not exist"):
        plan_scoring(model, [str(tmp_path / "none")], out)
    with pytest.raises(BundleError, match="neither a run nor a model folder"):
        plan_scoring(str(tmp_path / "mine"), sources, out)
    score_files(model, sources, out)
    with pytest.raises(OutputError, match="holds scores with another threshold"):
        plan_scoring(model, sources, out, threshold=0.1)
    (images / "0.png").unlink()
    (tmp_path / "out" / "_SUCCESS.json").unlink()
    with pytest.raises(OutputError, match="holds scores of 1 file"):
        plan_scoring(model, sources, out)


def test_workers_ask_for_ray(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    plan = plan_scoring(str(bundle.folder), [str(images)], str(tmp_path / "out"), workers=2)
    assert plan.workplace is not None
    assert plan.workplace.ray == "local"
    assert "at most 2 engine(s)" in format_scoring_plan(plan)


def test_values_in_json_have_their_types(invoke: Invoke, bundle: Bundle, images: Path, tmp_path: Path) -> None:
    arguments = ["score", bundle.folder, images, "--out", tmp_path / "out", "--json"]
    plan = json.loads(succeed(invoke(*arguments, "--dry-run")).stdout)
    assert (plan["total"]["files"], plan["workplace"]["on_gpu"], plan["files_left_out"]) == (3, False, 0)
    scores = json.loads(succeed(invoke(*arguments)).stdout)
    assert (scores["hash_paths"], scores["threshold"], scores["temperature"]) == (False, 0.5, 1.0)
    assert scores["classes"] == list(bundle.info.classes)
    assert scores["novelty"] == bundle.info.novelty_sha256
    refused = invoke(*arguments, "--dry-run", "--address", "http://127.0.0.1:9")
    assert (refused.exit_code, "remove --address" in refused.stderr) == (2, True)
