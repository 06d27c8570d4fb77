"""Models in folders: which are found, and what is said of each."""

import json
import shutil
from pathlib import Path

import pytest

from brainscale.errors import UsageError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.model_list import METRICS, ListedModel, list_models
from brainscale.evaluation.results import METRICS_FILE
from brainscale.models.bundle import MODEL_JSON, Bundle
from brainscale.stats.estimate import estimates_of
from tests.support.evaluating import edit_threshold, make_run, predict_without_ray
from tests.support.runs import Invoke


def found(*folders: Path) -> dict[str, ListedModel]:
    return {Path(one.model).name: one for one in list_models([str(folder) for folder in folders]) if not one.shipped}


def test_each_kind_of_folder(
    bundle: Bundle, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    predict_without_ray(monkeypatch)
    run = make_run(tmp_path / "run", bundle, phantoms)
    auroc = estimates_of(evaluate_model(str(run), report=False).metrics)["auroc"]
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    shutil.copytree(bundle.folder, tmp_path / "edited")
    edit_threshold(tmp_path / "edited", 0.25)
    shutil.copytree(bundle.folder, tmp_path / "older")
    facts = json.loads((tmp_path / "older" / MODEL_JSON).read_text())
    (tmp_path / "older" / MODEL_JSON).write_text(json.dumps({**facts, "format": 1}))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("model: {name: vgg16}")
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    shutil.copytree(bundle.folder, tmp_path / "scans" / "deep" / "bundle")

    models = found(tmp_path)
    assert list(models) == ["bundle", "edited", "older", "run", "unfinished"]
    listed = models["run"]
    assert (listed.network, listed.classes, listed.image_size) == ("brainmrnet", ("no_tumour", "tumour"), 64)
    assert (listed.auroc, listed.auroc_low, listed.auroc_high) == (auroc.value, auroc.low, auroc.high)
    assert (listed.test_samples, listed.manifest_sha256) == (auroc.n, bundle_manifest(run))
    assert models["bundle"].auroc is None
    assert models["bundle"].nbytes > 2e6
    assert [name for name, one in models.items() if one.edited] == ["edited"]
    assert (models["unfinished"].network, models["unfinished"].problem) == ("vgg16", "its training is not finished")
    assert "has model format 1" in (models["older"].problem or "")
    assert list(found(run)) == ["run"]  # not once more as run/model
    assert list(found(run / "model")) == ["model"]

    result = invoke("models", tmp_path, "--json")
    assert [Path(one["model"]).name for one in json.loads(result.stdout)] == ["phantoms", *models]
    lines = invoke("models", tmp_path).stdout.splitlines()
    assert lines[0].split()[:3] == ["model", "network", "classes"]
    assert lines[1].split()[0] == "phantoms"
    assert lines[1].endswith("for trying only")
    assert len(lines) == 2 + len(models)


def bundle_manifest(run: Path) -> str:
    return str(json.loads((run / "model" / MODEL_JSON).read_text())["manifest_sha256"])


def test_by_default_runs_and_the_working_directory(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert found() == {}
    for name in ("runs/first", "here"):
        shutil.copytree(bundle.folder, tmp_path / name)
    assert [one.model for one in list_models() if not one.shipped] == ["runs/first", "here"]


@pytest.mark.parametrize("folder", ["missing", "s3://bucket/runs"])
def test_a_folder_that_cannot_be_searched_is_named(folder: str) -> None:
    with pytest.raises(UsageError, match=folder):
        list_models([folder])


def test_metrics_have_one_name() -> None:
    assert METRICS == METRICS_FILE
