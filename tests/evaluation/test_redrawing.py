"""A report rendered again says the same, needs no prediction, and says which pictures are missing. No Ray."""

import re
import shutil
from pathlib import Path

import pytest

from brainscale.errors import BundleError, OutputError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.look_log import read_looks
from brainscale.evaluation.redrawing import redraw_reports
from brainscale.models.bundle import Bundle
from tests.support.evaluating import edit_threshold, make_run, predict_without_ray
from tests.support.runs import Invoke

MISSING = re.compile(r"(\d+) of \1 images could not be read for this report")


@pytest.fixture(scope="module")
def images(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that a test may remove."""
    return Path(shutil.copytree(phantoms, tmp_path_factory.mktemp("removable") / "images"))


@pytest.fixture(scope="module")
def run(bundle: Bundle, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one evaluation."""
    run = make_run(tmp_path_factory.mktemp("finished") / "run", bundle, images)
    with pytest.MonkeyPatch.context() as patch:
        predict_without_ray(patch)
        evaluate_model(str(run), by=["format"])
    return run


def test_the_report_is_the_same_without_a_prediction_or_a_look(
    run: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    folder = run / "evaluation" / "test"
    first, looks = (folder / "report.html").read_text(), read_looks(run)[0]
    marks = {path: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".json")}
    (folder / "report.html").unlink()
    shutil.rmtree(folder / "plots")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr("brainscale.evaluation.evaluator.predict_rows", refuse)
    result = invoke("report", run)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(folder / "report.html")]
    minute = re.compile(r"\d\d:\d\d UTC")  # the tables may be older than their report by one
    assert minute.sub("", (folder / "report.html").read_text()) == minute.sub("", first)
    assert any((folder / "plots").iterdir())
    assert read_looks(run)[0] == looks
    assert {path: path.read_bytes() for path in marks} == marks


def test_an_evaluation_elsewhere_needs_its_own_model(run: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(run / "evaluation" / "test", tmp_path / "elsewhere"))
    (elsewhere / "report.html").unlink()
    with pytest.raises(BundleError, match="say which model was evaluated with --model"):
        redraw_reports(str(elsewhere))
    assert redraw_reports(str(elsewhere), model=str(run)) == [str(elsewhere / "report.html")]
    edited = Path(shutil.copytree(run, tmp_path / "edited"))
    edit_threshold(edited / "model", 0.25)
    with pytest.raises(BundleError, match="was edited after it was written"):
        redraw_reports(str(elsewhere), model=str(edited))


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="run `brainscale evaluate` first"):
        redraw_reports(str(tmp_path))


def test_images_that_are_gone_leave_the_rest(run: Path, images: Path, tmp_path: Path) -> None:
    hidden = images.rename(images.with_name("hidden"))
    try:
        (report,) = redraw_reports(str(run / "evaluation" / "test"))
    finally:
        hidden.rename(images)
    text = Path(report).read_text()
    assert MISSING.search(text)
    assert "Sensitivity" in text
