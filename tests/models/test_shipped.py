"""The model that comes with brainscale: small, whole, able to tell phantoms apart, and marked as for trying only."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import brainscale as bs
from brainscale.dataset.phantoms import draw_phantom
from brainscale.errors import UsageError
from brainscale.models.bundle import open_bundle
from brainscale.models.shipped import (
    describe_model_notes,
    find_shipped,
    is_shipped_name,
    locate_model,
    make_model_absolute,
    shipped_folders,
)
from brainscale.stats.estimate import estimates_of
from tests.support.runs import Invoke, scores

NOTE = "Note: the model phantoms was trained on phantoms (synthetic images), for trying brainscale only"


@pytest.fixture(name="scan")
def draw_scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.png"
    Image.fromarray(draw_phantom(1, 0, tumour=True)).save(path)
    return path


def test_it_is_small_and_whole_and_says_what_it_is_for() -> None:
    folder = shipped_folders()["phantoms"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 6e6
    bundle = open_bundle(folder)
    assert bundle.novelty is not None
    assert "for trying brainscale only" in (folder / "README.md").read_text()
    assert list(describe_model_notes(bundle)) == [f"{NOTE}: its predictions say nothing about real scans."]


def test_it_tells_new_phantoms_apart() -> None:
    model = bs.load_model("phantoms")
    assert repr(model).endswith("for trying only)")
    side = model.bundle.info.preprocess.image_size
    planes = [Image.fromarray(draw_phantom(2, i, tumour=i % 2 == 0)).resize((side, side)) for i in range(24)]
    probabilities = model.probabilities(np.stack([np.asarray(plane) for plane in planes]))[:, 1]
    with_tumour, without = probabilities[::2], probabilities[1::2]
    assert (with_tumour[:, None] > without[None]).mean() > 0.8  # the AUROC


def test_commands_take_its_name_and_print_one_note(
    invoke: Invoke, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predicted = invoke("predict", "phantoms", scan, "--json")
    scored = invoke("score", "phantoms", scan, "--out", "scores")
    for result in (predicted, scored):
        assert result.exit_code == 0, result.output
        assert result.stderr.count(NOTE) == 1
    (row,), (same,) = json.loads(predicted.stdout), scores(tmp_path / "scores")
    assert row["probability"] == same["probability"]


def test_it_can_be_evaluated(invoke: Invoke, phantoms: Path, tmp_path: Path) -> None:
    result = invoke("evaluate", "phantoms", "--data", phantoms, "--out", tmp_path / "out", "--no-report")
    assert result.exit_code == 0, result.output
    assert result.stderr.count(NOTE) == 1
    metrics = estimates_of(pq.read_table(tmp_path / "out" / "metrics.parquet"))
    assert (metrics["auroc"].value or 0) > 0.8


def test_an_evaluation_needs_a_place_outside_the_package(invoke: Invoke, scan: Path) -> None:
    result = invoke("evaluate", "phantoms", "--data", scan.parent)
    assert result.exit_code == 2
    assert "the model phantoms is part of brainscale: say where to write the evaluation with --out" in result.stderr


def test_a_copy_is_known_by_its_weights(tmp_path: Path) -> None:
    copy = shutil.copytree(shipped_folders()["phantoms"], tmp_path / "my-model")
    assert find_shipped(open_bundle(copy)) == "phantoms"


def test_a_folder_of_its_name_counts_only_if_it_holds_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantoms" / "yes").mkdir(parents=True)  # images
    assert is_shipped_name("phantoms")
    assert make_model_absolute("phantoms") == "phantoms"
    assert locate_model("phantoms") == str(shipped_folders()["phantoms"])
    assert make_model_absolute("./phantoms") == str(tmp_path / "phantoms")
    assert not is_shipped_name("runs/phantoms")
    (tmp_path / "phantoms" / "config.yaml").touch()
    with pytest.raises(UsageError, match=r"write \./phantoms for the folder"):
        is_shipped_name("phantoms")
    assert locate_model("./phantoms") == "./phantoms"


def test_predictions_of_python_are_those_of_its_folder(scan: Path) -> None:
    one, other = (bs.load_model(model).predict(scan) for model in ("phantoms", shipped_folders()["phantoms"]))
    assert isinstance(one, pa.Table)
    assert one.equals(other)


def test_the_list_is_made_without_heavy_libraries() -> None:
    code = (
        "import sys; from brainscale.cli.main import main\n"
        "try: main(['models'])\n"
        "finally: print(sorted({'torch', 'ray', 'scipy', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert "phantoms" in done.stdout
    assert done.stderr.splitlines()[-1] == "[]"
