"""Bundles and engines: made here from every network, opened, altered, and run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from brainscale.config.sections import ARCHITECTURES
from brainscale.errors import BundleError, FormatError, UsageError
from brainscale.models.bundle import MODEL_JSON, NOVELTY, ONNX, WEIGHTS, Bundle, OperatingPoint, open_bundle
from brainscale.models.engines import Engine, EngineOptions, load_engine, read_network, resolve_engine
from brainscale.models.normalisation import normalise
from brainscale.stats.target_bound import TargetBound
from tests.support.bundles import make_bundle, network_with_statistics, random_planes


def started(bundle: Bundle, options: EngineOptions) -> Engine:
    threads = 2 if options.name == "onnx" else 1  # torch's are the whole process's
    return load_engine(bundle.info, read_network(bundle, options), options, threads=threads)


@pytest.mark.parametrize(("name", "side"), [*((name, 64) for name in ARCHITECTURES), ("brainmrnet", 224)])
def test_engines_agree_with_the_eager_network(name: str, side: int, bundle: Bundle, tmp_path: Path) -> None:
    network = network_with_statistics(name)
    is_that_of_the_session = (name, side) == (bundle.info.architecture, bundle.info.preprocess.image_size)
    opened = bundle if is_that_of_the_session else make_bundle(tmp_path / "model", network, name, side)
    planes = np.random.default_rng(0).integers(0, 256, (7, side, side), np.uint8)
    with torch.no_grad():
        eager = torch.softmax(network(normalise(torch.from_numpy(planes))), 1).numpy()
    for engine in ("onnx", "torch"):
        run = started(opened, EngineOptions(name=engine))
        alone = np.concatenate([run(planes[i : i + 1]).probabilities for i in range(len(planes))])
        for size in (2, 7):
            together = run(planes[:size]).probabilities
            assert together.shape == (size, 2)
            assert together.dtype == np.float32
            assert np.abs(together - eager[:size]).max() < 1e-5
            assert np.abs(together - alone[:size]).max() < 1e-6  # whatever shared the batch


@pytest.mark.parametrize("name", ["brainmrnet", "brainmrnet_paper", "resnet50", "efficientnet_lite0"])
def test_engines_agree_on_novelty(name: str, bundle: Bundle, tmp_path: Path) -> None:
    made = name == bundle.info.architecture
    opened = bundle if made else make_bundle(tmp_path / "model", network_with_statistics(name), name)
    assert opened.novelty is not None
    planes = np.concatenate([random_planes(5, seed=1), np.zeros((1, 64, 64), np.uint8), random_planes(1, seed=2) // 2])
    found = []
    for engine in ("onnx", "torch"):
        run = started(opened, EngineOptions(name=engine))
        novelty = opened.novelty.measure(run(planes).features)
        alone = np.concatenate([opened.novelty.measure(run(planes[i : i + 1]).features) for i in range(len(planes))])
        assert np.abs(novelty - alone).max() < 1e-4
        found.append(novelty)
    assert np.abs(found[0] - found[1]).max() < 1e-4
    assert found[0][5] == 1  # an empty plane, among noise
    assert found[0][:5].max() > 0


def test_auto_is_torch_where_there_are_gpus() -> None:
    assert resolve_engine(EngineOptions(), 0) == EngineOptions(name="onnx")
    assert resolve_engine(EngineOptions(), 2) == EngineOptions(name="torch", on_gpu=True)
    assert resolve_engine(EngineOptions(name="onnx"), 2) == EngineOptions(name="onnx")
    assert resolve_engine(EngineOptions(precision="bf16"), 0) == EngineOptions(name="torch", precision="bf16")
    with pytest.raises(UsageError, match="unknown engine 'tensorrt': choose auto, onnx or torch"):
        resolve_engine(EngineOptions(name="tensorrt"), 0)
    with pytest.raises(UsageError, match="need torch: remove --engine onnx"):
        resolve_engine(EngineOptions(name="onnx", compiled=True), 0)


def test_half_the_width_is_nearly_the_same(bundle: Bundle) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    exact = started(bundle, EngineOptions(name="torch"))(planes).probabilities
    narrow = started(bundle, EngineOptions(name="torch", precision="bf16"))(planes).probabilities
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - exact).max() < 0.05


def test_a_run_and_its_model_folder_are_the_same_bundle(bundle: Bundle) -> None:
    assert open_bundle(bundle.folder.parent) == bundle
    assert bundle.info.data.label("YES") == "tumour"


@pytest.mark.parametrize("name", [WEIGHTS, ONNX, NOVELTY])
def test_altered_and_missing_files_are_found(bundle: Bundle, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle.folder, copy)
    with (copy / name).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(BundleError, match=f"{name} is not the file that model.json describes"):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"has no {name}: copy the whole model folder"):
        open_bundle(copy)


def test_what_is_no_bundle(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is neither a run nor a model folder"):
        open_bundle(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(BundleError, match="its training is not finished"):
        open_bundle(tmp_path)
    info = json.loads((bundle.folder / MODEL_JSON).read_text())
    (tmp_path / MODEL_JSON).write_text(json.dumps(info | {"format": 1}))
    with pytest.raises(FormatError, match="has model format 1, but this version of brainscale reads format 3"):
        open_bundle(tmp_path)
    for wrong in ("{", json.dumps(info | {"extra": 1})):
        (tmp_path / MODEL_JSON).write_text(wrong)
        with pytest.raises(BundleError, match="does not describe a model") as error:
            open_bundle(tmp_path)
        assert "\n" not in str(error.value)


def test_an_edited_model_is_refused_or_named(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(bundle.folder, copy)
    facts = json.loads((copy / MODEL_JSON).read_text())
    (copy / MODEL_JSON).write_text(json.dumps(facts))  # another layout of the same
    assert open_bundle(copy).info == bundle.info
    swapped = dict(reversed(facts["classes"].items()))
    lower = facts["operating_points"]["slice"] | {"threshold": 0.1}
    for change in (
        {"operating_points": {"slice": lower}},
        {"classes": swapped},
        {"weights_sha256": "0" * 64},
        {"temperature": 2.0},
    ):
        (copy / MODEL_JSON).write_text(json.dumps(facts | change))
        with pytest.raises(BundleError, match="was edited after it was written, such as its threshold or its classes"):
            open_bundle(copy)
    (copy / MODEL_JSON).write_text(json.dumps(facts | {"operating_points": {"slice": lower}}))
    edited = open_bundle(copy, allow_edited=True)
    assert (edited.edited, edited.info.threshold) == (True, 0.1)
    assert edited.info.threshold_source == "fixed; model.json was edited after it was written"
    assert edited.sha256 != bundle.sha256  # the hash of what it says now, not the one that stands there
    (copy / MODEL_JSON).write_text(json.dumps(facts | {"operating_points": {"slice": lower | {"threshold": 0.2}}}))
    assert open_bundle(copy, allow_edited=True).sha256 not in (edited.sha256, bundle.sha256)


def test_the_bound_of_a_threshold_comes_back_from_model_json() -> None:
    bound = TargetBound(
        metric="sensitivity",
        target=0.9,
        confidence=0.9,
        lower_bound=0.91,
        observed=0.95,
        samples=40,
        groups=38,
        independent_samples=39.5,
    )
    point = OperatingPoint(threshold=0.4, threshold_source="target", threshold_bound=bound)
    assert OperatingPoint.model_validate_json(point.model_dump_json()) == point
    with pytest.raises(ValueError, match="sensitivity"):
        OperatingPoint.model_validate_json(point.model_dump_json().replace("sensitivity", "luck"))


def test_the_onnx_file_names_no_folder_of_the_machine_that_made_it(bundle: Bundle) -> None:
    contents = bundle.onnx.read_bytes()
    assert b'File "' not in contents
    assert b"onnx_export.py" not in contents
