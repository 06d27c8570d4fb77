"""Bundles and engines: made here from every network, opened, altered, and run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from brainscale import engine
from brainscale.bundle import CARD, ONNX, WEIGHTS, Bundle, open_bundle, write_card
from brainscale.config import DEFAULT_CLASSES, PreprocessConfig
from brainscale.errors import BundleError, UsageError
from brainscale.export import export_onnx
from brainscale.files import versions
from brainscale.models import NAMES
from brainscale.models.registry import build, count_parameters


def make_bundle(folder: Path, name: str) -> Bundle:
    folder.mkdir(parents=True)
    network = build(name, 2, seed=3)
    save_file(network.state_dict(), folder / WEIGHTS)
    export_onnx(name, 2, 64, network.state_dict(), folder / ONNX)
    write_card(
        folder,
        {
            "architecture": name,
            "classes": DEFAULT_CLASSES,
            "preprocess": PreprocessConfig(image_size=64),
            "threshold": 0.5,
            "threshold_source": "fixed",
            "parameters": count_parameters(network),
            "manifest_sha256": "0",
            "config_sha256": "0",
            "seed": 3,
            "epoch": 1,
            "versions": versions(),
        },
    )
    return open_bundle(folder)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("b") / "model", "brainmrnet")


@pytest.mark.parametrize("name", NAMES)
def test_engines_agree(name: str, tmp_path: Path) -> None:
    opened = make_bundle(tmp_path / "model", name)
    planes = np.random.default_rng(0).integers(0, 256, (5, 64, 64), np.uint8)
    onnx = engine.load(opened, "onnx", threads=2)
    torch = engine.load(opened, "torch", device="cpu", threads=2)
    for size in (1, 5):
        ours, theirs = onnx(planes[:size]), torch(planes[:size])
        assert ours.shape == (size, 2)
        assert ours.dtype == np.float32
        assert np.abs(ours - theirs).max() < 1e-5
        assert np.allclose(ours.sum(1), 1, atol=1e-5)


def test_auto_is_torch_where_there_are_gpus() -> None:
    assert engine.choose("auto", 0) == "onnx"
    assert engine.choose("auto", 2) == "torch"
    assert engine.choose("onnx", 2) == "onnx"
    with pytest.raises(UsageError, match="unknown engine 'tensorrt': known: auto, onnx, torch"):
        engine.choose("tensorrt", 0)


def test_a_run_and_its_model_folder_are_the_same_bundle(bundle: Bundle) -> None:
    assert open_bundle(bundle.folder.parent) == bundle
    assert bundle.card.data.label("YES") == "tumour"


@pytest.mark.parametrize("name", [WEIGHTS, ONNX])
def test_altered_and_missing_files_are_found(bundle: Bundle, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    with (copy / name).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(BundleError, match=f"{name} is not the file that model.json describes"):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}: copy the whole model folder"):
        open_bundle(copy)


def test_what_is_no_bundle(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is neither a run nor a model folder"):
        open_bundle(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(BundleError, match="its training is not finished"):
        open_bundle(tmp_path)
    card = json.loads((bundle.folder / CARD).read_text())
    for wrong in ("{", json.dumps(card | {"format": 2}), json.dumps(card | {"extra": 1})):
        (tmp_path / CARD).write_text(wrong)
        with pytest.raises(BundleError, match="cannot be read as a model's card") as error:
            open_bundle(tmp_path)
        assert "\n" not in str(error.value)
