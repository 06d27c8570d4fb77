"""What one command has finished is not the output of another: each is refused, and nothing in it changes."""

import shutil
from pathlib import Path

import pytest

from brainscale.dataset.manifest import read_manifest, write_manifest
from tests.support.runs import SMALL, Invoke, invoke, succeed


@pytest.fixture(scope="module")
def finished(int8_run: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind → a finished folder of it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(int8_run, folder / "run")
    succeed(invoke("score", "phantoms", phantoms, "--out", folder / "scores"))
    succeed(invoke("evaluate", folder / "run", "--no-report", "--out", folder / "evaluation"))
    return {kind: folder / kind for kind in ("run", "scores", "evaluation")}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "writes"),
    [
        (kind, writes)
        for kind in ("run", "scores", "evaluation")
        for writes in ("scores", "evaluation", "ensemble", "cross-validation")
        if kind != writes
    ],
)
def test_a_finished_folder_is_refused(
    finished: dict[str, Path], phantoms: Path, invoke: Invoke, kind: str, writes: str
) -> None:
    out, run = finished[kind], finished["run"]
    before = contents(out)
    arguments = {
        "scores": ("score", "phantoms", phantoms),
        "evaluation": ("evaluate", run, "--no-report"),
        "ensemble": ("ensemble", run),
        "cross-validation": ("train", "--data", run / "manifest.parquet", "--folds", "2", *SMALL),
    }[writes]
    refused = invoke(*arguments, "--out", out)
    assert refused.exit_code == 1, refused.output
    (line,) = [line for line in refused.output.splitlines() if line.startswith("Error")]
    assert f"{out} holds " in line
    assert f"no {writes}: choose a new folder" in line
    assert contents(out) == before


def test_an_evaluation_of_other_data_stays(finished: dict[str, Path], phantoms: Path, invoke: Invoke) -> None:
    out = finished["evaluation"]
    before = contents(out)
    refused = invoke("evaluate", "phantoms", "--data", phantoms, "--no-report", "--out", out)
    assert refused.exit_code == 1, refused.output
    message = f"{out} holds a finished evaluation of other data: --overwrite replaces it, or choose another --out"
    assert message in refused.output
    assert contents(out) == before


def test_data_of_the_same_name_is_other_data(finished: dict[str, Path], tmp_path: Path, invoke: Invoke) -> None:
    """Both would go to the run's evaluation/scans-all."""
    out, manifest = tmp_path / "evaluation", read_manifest(finished["run"] / "manifest.parquet")
    paths = [tmp_path / name / "scans.parquet" for name in ("here", "there")]
    for path, rows in zip(paths, (manifest, manifest[:-1]), strict=True):
        write_manifest(rows, path)
    first, second = (("evaluate", finished["run"], "--data", path, "--no-report", "--out", out) for path in paths)
    succeed(invoke(*first))
    before = contents(out)
    refused = invoke(*second)
    assert refused.exit_code == 1, refused.output
    assert "holds a finished evaluation of other data: --overwrite replaces it" in refused.output
    assert contents(out) == before
    succeed(invoke(*second, "--overwrite"))
    assert contents(out) != before


def test_other_options_replace_an_evaluation_and_say_so(
    finished: dict[str, Path], tmp_path: Path, invoke: Invoke
) -> None:
    out = Path(shutil.copytree(finished["evaluation"], tmp_path / "evaluation"))
    done = succeed(invoke("evaluate", finished["run"], "--prevalence", "0.1", "--no-report", "--out", out))
    assert f"This replaces the evaluation in {out}, which was made with other options." in done.output


def test_an_evaluation_that_is_stopped_leaves_the_earlier_one_whole(
    finished: dict[str, Path], tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(finished["evaluation"], tmp_path / "evaluation"))
    (out / "notes.txt").write_text("mine")
    before = contents(out)

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("brainscale.evaluation.evaluator.write_success", stop)  # everything else is written
        assert invoke("evaluate", finished["run"], "--prevalence", "0.1", "--no-report", "--out", out).exit_code
    assert contents(out) == before
    assert {path.name for path in out.iterdir()} == {path.name for path in before}


def test_a_report_of_earlier_options_goes(finished: dict[str, Path], tmp_path: Path, invoke: Invoke) -> None:
    """It would show other numbers than the tables beside it."""
    out = tmp_path / "evaluation"
    shutil.copytree(finished["evaluation"], out)
    (out / "report.html").write_text("earlier")
    (out / "plots").mkdir()
    succeed(invoke("evaluate", finished["run"], "--prevalence", "0.1", "--no-report", "--out", out))
    assert not (out / "report.html").exists()
    assert not (out / "plots").exists()


def test_an_evaluation_that_was_only_begun_goes_on(finished: dict[str, Path], tmp_path: Path, invoke: Invoke) -> None:
    out = tmp_path / "evaluation"
    out.mkdir()
    shutil.copy(finished["evaluation"] / "manifest.parquet", out)
    succeed(invoke("evaluate", finished["run"], "--no-report", "--out", out))


def test_heatmaps_go_to_a_folder_of_their_own(phantoms: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    refused = invoke("score", "phantoms", phantoms, "--out", tmp_path / "scores", "--heatmaps", tmp_path / "mine")
    assert refused.exit_code == 1
    assert "holds other files and no heatmaps" in refused.output
    image = next(phantoms.rglob("*.png"))
    refused = invoke("predict", "phantoms", image, "--heatmap", tmp_path / "mine" / "letter.txt")
    assert refused.exit_code == 2
    assert "letter.txt is a file: choose a new folder for --heatmap" in refused.output
