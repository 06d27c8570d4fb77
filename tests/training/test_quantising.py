"""The int8 graph of a run: what is kept, and that a damaged graph, or too few samples, are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from brainscale.errors import BundleError, TrainError
from brainscale.models.bundle import open_bundle
from brainscale.models.engines import EngineOptions, load_engine, read_network
from brainscale.models.int8 import INT8_JSON, INT8_ONNX
from brainscale.training import quantising
from tests.support.evaluating import make_run
from tests.support.images import write_image
from tests.support.runs import Invoke


@pytest.fixture
def run(int8_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_run, tmp_path / "run"))


def test_the_record_says_what_was_checked(int8_run: Path) -> None:
    bundle = open_bundle(int8_run)
    record = bundle.int8
    assert record is not None
    assert record.model_sha256 == bundle.sha256
    assert record.validation_samples >= 20
    assert 0 < record.largest_change < 0.2
    assert abs(record.auroc_fp32 - record.auroc_int8) <= 0.002
    assert record.changed == 0
    assert record.largest_novelty_change is not None
    card = (int8_run / "model" / "README.md").read_text()
    assert card.count("Precision int8: ") == 1
    assert f"Precision int8: {record.describe()}\n" in card


def test_convolutions_are_in_int8_and_probabilities_stay_close(int8_run: Path, phantoms: Path) -> None:
    bundle = open_bundle(int8_run)
    graph = onnx.load(bundle.folder / INT8_ONNX)
    weights = [numpy_helper.to_array(each) for each in graph.graph.initializer]
    kernels = [each for each in weights if each.dtype == np.int8 and each.ndim == 4]
    assert len(kernels) == 7  # of nine: the first reads one channel, and the spatial attention two
    assert max(int(np.abs(each.astype(np.int32)).max()) for each in kernels) <= 64
    planes = np.random.default_rng(0).integers(0, 256, (3, 80, 80), np.uint8)
    outputs = []
    for precision in ("fp32", "int8"):
        options = EngineOptions(name="onnx", precision=precision)
        outputs.append(load_engine(bundle.info, read_network(bundle, options), options)(planes))
    difference = np.abs(outputs[0].probabilities - outputs[1].probabilities).max()
    assert 0 < difference < 0.1


def test_the_graph_has_the_same_bytes_each_time(run: Path) -> None:
    before = (run / "model" / INT8_ONNX).read_bytes()
    quantising.quantise_run(str(run))
    assert (run / "model" / INT8_ONNX).read_bytes() == before


def test_a_damaged_graph_is_refused_and_nothing_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = quantising.export_int8

    def export_damaged(*arguments: object) -> None:
        export(*arguments)  # type: ignore[arg-type]
        path = arguments[-1]
        assert isinstance(path, Path)
        graph = onnx.load(path)
        kernels = [each for each in graph.graph.initializer if each.data_type == onnx.TensorProto.INT8]
        largest = max(kernels, key=lambda each: len(each.raw_data))
        values = numpy_helper.to_array(largest)
        largest.CopyFrom(numpy_helper.from_array(values[::-1].copy(), largest.name))
        onnx.save(graph, path)

    monkeypatch.setattr(quantising, "export_int8", export_damaged)
    with pytest.raises(TrainError, match=r"int8 is refused for .*: .*; nothing is kept, use fp32$"):
        quantising.quantise_run(str(run))
    assert not (run / "model" / INT8_ONNX).exists()
    assert not (run / "model" / INT8_JSON).exists()
    assert open_bundle(run).int8 is None
    assert "Precision int8: There is no int8 graph" in (run / "model" / "README.md").read_text()


def test_too_few_validation_samples_are_refused(int8_run: Path, phantoms: Path, tmp_path: Path, invoke: Invoke) -> None:
    run = make_run(tmp_path / "run", open_bundle(int8_run), phantoms, val=0.1, test=0.3)
    result = invoke("quantize", run)
    assert result.exit_code == 1
    said, error = result.stderr.splitlines()
    assert said == f"Quantising {run}"
    assert error.startswith("Error: int8 cannot be checked on the 6 validation sample(s)")


def test_images_that_have_changed_are_refused(int8_run: Path, phantoms: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(phantoms, tmp_path / "source"))
    run = make_run(tmp_path / "run", open_bundle(int8_run), source, val=0.4, test=0.1)
    for name in sorted(source.rglob("*.png"))[:30]:
        write_image(name, seed=5)
    with pytest.raises(TrainError, match="cannot be read or have changed"):
        quantising.quantise_run(str(run))


def test_a_model_without_its_run_is_refused(int8_run: Path, tmp_path: Path) -> None:
    shutil.copytree(int8_run / "model", tmp_path / "model")
    with pytest.raises(BundleError, match="is no run with its manifest"):
        quantising.quantise_run(str(tmp_path / "model"))


@pytest.mark.parametrize("name", [INT8_ONNX, INT8_JSON])
def test_altered_files_are_found_when_the_model_is_opened(run: Path, name: str) -> None:
    path = run / "model" / name
    if name == INT8_JSON:
        path.write_text(json.dumps({**json.loads(path.read_text()), "changed": 7}))
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=name):
        open_bundle(run)
