"""Heatmaps: the maths against the definitions, the pictures, the table, and a network left as it was."""

import hashlib
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.config.sections import ARCHITECTURES, PreprocessConfig
from brainscale.errors import RERUN, OutputError
from brainscale.models.bundle import WEIGHTS, Bundle, ModelInfo, OperatingPoint
from brainscale.models.classifier import Classifier
from brainscale.models.heatmaps import (
    COLUMNS,
    OPACITY,
    compute_evidence,
    compute_heatmaps,
    heatmap_method,
    log_odds,
    overlay_heatmap,
    write_heatmaps,
)
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network

SIZE = 64


def some_planes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE), np.uint8)


def built(name: str, classes: int = 2) -> Any:
    return build_network(name, classes, seed=3).eval()


def parts(name: str, network: Any, planes: Tensor) -> tuple[Tensor, Tensor]:
    """The last feature map and the logits, layer by layer, as the networks' papers have them."""
    x = normalise(planes)
    if name.startswith("brainmrnet"):
        first = network.stage1(x)
        second = network.stage2(first)
        last = network.stage3(second)
        return last, network.head(network.hypercolumn([first, second, last]))
    if name == "vgg16":
        last = network.features(x)
        return last, network.classifier(network.avgpool(last).flatten(1))
    if name == "densenet121":
        last = network.features(x).relu()
        return last, network.classifier(last.mean((2, 3)))
    for layer in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = getattr(network, layer)(x)
    return x, network.fc(x.mean((2, 3)))


def expected(name: str, network: nn.Module, planes: Tensor, sign: int) -> Tensor:
    """The map of a two-class network; the exact one differs from Grad-CAM by a factor, which scaling takes away."""
    last, logits = parts(name, network, planes)
    (gradient,) = torch.autograd.grad(sign * (logits[:, 1] - logits[:, 0]).sum(), last)
    if name.startswith("brainmrnet"):
        maps = F.adaptive_avg_pool2d((gradient * last).sum(1, keepdim=True), 4).relu()
    else:
        maps = (gradient.mean((2, 3), keepdim=True) * last).sum(1, keepdim=True).relu()
    maps = F.interpolate(maps, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0].detach()
    highest = maps.flatten(1).max(1).values
    return torch.stack([m / h if h > 0 else m for m, h in zip(maps, highest, strict=True)])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_map_is_as_defined_and_the_network_is_as_it_was(name: str) -> None:
    network, planes = built(name), torch.from_numpy(some_planes(3))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    ours = {target: compute_heatmaps(network, planes, target, architecture=name) for target in (None, 0, 1)}
    flat = compute_heatmaps(network, torch.full((2, SIZE, SIZE), 0, dtype=torch.uint8), architecture=name)

    assert torch.is_grad_enabled()
    assert all(not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks) for m in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

    assert torch.equal(ours[None], ours[1])
    assert flat.isfinite().all()
    assert max(float(maps.max()) for maps in ours.values()) == 1
    for target, sign in ((None, 1), (0, -1)):
        maps = ours[target]
        assert maps.shape == (3, SIZE, SIZE)
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        assert maps.amin() >= 0
        assert set(maps.amax((1, 2)).tolist()) <= {0.0, 1.0}
        assert torch.allclose(maps, expected(name, network, planes, sign), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_an_exact_map_adds_up_to_the_score(name: str) -> None:
    network, planes = built(name), torch.from_numpy(some_planes(3))
    maps = compute_evidence(network, planes, architecture=name)
    bias = network.get_parameter("fc.bias" if name == "resnet50" else "classifier.bias").detach()
    with torch.no_grad():
        logits = network(normalise(planes))
    score = logits[:, 1] - logits[:, 0]
    assert torch.allclose(maps.mean((1, 2)) + bias[1] - bias[0], score, rtol=0, atol=1e-4)
    assert torch.equal(compute_evidence(network, planes, 0, architecture=name), -maps)


@pytest.mark.parametrize("name", ["densenet121", "brainmrnet"])
@pytest.mark.parametrize("target", [None, 0, 1, 2])
def test_three_classes(name: str, target: int | None) -> None:
    network, planes = built(name, 3), torch.from_numpy(some_planes(2))
    last, logits = parts(name, network, planes)
    chances = torch.softmax(logits, 1)
    odds = 1 / chances[:, 0] - 1 if target is None else chances[:, target] / (1 - chances[:, target])
    assert torch.allclose(log_odds(logits, target), odds.log(), rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(odds.log().sum(), last)
    if name == "brainmrnet":
        theirs = F.adaptive_avg_pool2d((gradient * last).sum(1), 4).detach()
    else:
        theirs = (gradient.mean((2, 3), keepdim=True) * last).sum(1).detach()
    if NETWORKS[name].cam_method == "cam":
        theirs *= theirs[0].numel()  # ours are on the exact map's scale
    ours = compute_evidence(network, planes, target, architecture=name)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert compute_heatmaps(network, planes, target, architecture=name).isfinite().all()


def test_the_score_is_the_one_that_engines_give() -> None:
    network, planes = built("brainmrnet", 3), torch.from_numpy(some_planes(2))
    with torch.no_grad():
        tumour = 1 - Classifier(network)(planes)[0][:, 0]
        assert torch.allclose(torch.sigmoid(log_odds(network(normalise(planes)))), tumour, rtol=0, atol=1e-5)


def test_frozen_weights_and_a_caller_without_gradients_make_no_difference() -> None:
    network, planes = built("brainmrnet"), torch.from_numpy(some_planes(2))
    free = compute_heatmaps(network, planes, architecture="brainmrnet")
    network.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(compute_heatmaps(network, planes, architecture="brainmrnet"), free)
        assert not torch.is_grad_enabled()
    assert not any(p.requires_grad for p in network.parameters())


class Toy(nn.Module):
    """Eight-pixel means, and two classes that see the brightness with opposite signs; built like ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.AvgPool2d(8), nn.ReLU())
        self.fc = nn.Linear(3, 2)
        nn.init.constant_(self.fc.weight[0], -1.0)
        nn.init.constant_(self.fc.weight[1], 1.0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer4(x).mean((2, 3)))
        return logits


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 2), (7, 4)])
def test_a_hot_spot_is_where_the_map_is_highest(row: int, column: int) -> None:
    planes = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    planes[1, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
    network = Toy().eval()
    dark, lit = compute_heatmaps(network, planes, architecture="resnet50")
    at = divmod(int(lit.argmax()), SIZE)
    assert (at[0] // 8, at[1] // 8) == (row, column)
    assert lit[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].mean() > 0.5
    assert lit.sum() < 2 * 64  # next to nothing elsewhere
    assert not dark.any()
    assert not compute_heatmaps(network, planes, 0, architecture="resnet50").any()


def test_a_network_in_training_is_refused() -> None:
    network = built("brainmrnet")
    network.head.dropout.train()
    with pytest.raises(ValueError, match=r"in training mode: call its eval\(\) first"):
        compute_heatmaps(network, torch.from_numpy(some_planes(1)), architecture="brainmrnet")


def test_every_network_has_its_place_and_its_method() -> None:
    assert tuple(NETWORKS) == ARCHITECTURES
    assert {name for name in ARCHITECTURES if heatmap_method(name, 2) == "cam"} == {"resnet50", "densenet121"}
    assert {heatmap_method(name, 3) for name in ARCHITECTURES} == {"hirescam", "grad-cam"}


def test_an_overlay_grows_with_the_map() -> None:
    plane, heat = some_planes(1)[0], np.zeros((SIZE, SIZE), np.float32)
    heat[0, 0], heat[0, 1], plane[0, :2] = 1, 0.5, 200
    picture = overlay_heatmap(plane, heat)
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture[1:], np.stack([plane[1:]] * 3, 2))
    yellow = np.array([0.993248, 0.906157, 0.143936]) * 255  # where viridis ends
    assert np.abs(picture[0, 0] - ((1 - OPACITY) * 200 + OPACITY * yellow)).max() <= 1
    assert np.abs(picture[0, 1].astype(int) - 200).max() > 0


def make_bundle(folder: Path, name: str) -> Bundle:
    """A bundle that was never closed: heatmaps read its card and its weights."""
    folder.mkdir()
    save_file(build_network(name, 2, seed=3).state_dict(), folder / WEIGHTS)
    info = ModelInfo(
        architecture=name,
        classes=DEFAULT_CLASSES,
        preprocess=PreprocessConfig(image_size=SIZE),
        operating_points={"slice": OperatingPoint(threshold=0.5, threshold_source="fixed")},
        parameters=1,
        weights_sha256="0",
        onnx_sha256="0",
        manifest_sha256="0",
        config_sha256="0",
        seed=3,
        epoch=1,
        versions={},
        model_sha256="0",
    )
    return Bundle(folder=folder, info=info)


def rows_of(count: int) -> list[dict[str, Any]]:
    ids = [f"ward7/Jane Doé.zip!series/{i}.dcm#12" for i in range(count)]
    return [{"sample_id": s, "probability": 0.9 - i / 100, "prediction": "tumour"} for i, s in enumerate(ids)]


def chunks(path: Path) -> list[bytes]:
    """The kinds of a PNG's chunks."""
    data, at, kinds = path.read_bytes(), 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kinds.append(data[at + 4 : at + 8])
        at += 12 + length
    return kinds


@pytest.mark.parametrize(("name", "how"), [("brainmrnet", "hirescam"), ("densenet121", "cam")])
def test_pictures_and_table(name: str, how: str, tmp_path: Path) -> None:
    bundle, planes, rows = make_bundle(tmp_path / "model", name), some_planes(10), rows_of(10)
    planes.setflags(write=False)  # as planes from a table are
    out = tmp_path / "new" / "pictures"
    table = write_heatmaps(bundle, list(planes), rows, out)
    assert table.schema == COLUMNS
    assert table.equals(pq.read_table(out / "heatmaps.parquet"))
    assert table["sample_id"].to_pylist() == [row["sample_id"] for row in rows]
    assert np.allclose(table["probability"].to_pylist(), [row["probability"] for row in rows])
    assert set(table["method"].to_pylist()) == {how}
    files = table["file"].to_pylist()
    assert {path.name for path in out.iterdir()} == {*files, "heatmaps.parquet"}
    network = build_network(name, 2, seed=3).eval()
    for rank, (file, plane, row) in enumerate(zip(files, planes, rows, strict=True), 1):
        assert file == f"{rank:03d}-{hashlib.sha256(row['sample_id'].encode()).hexdigest()[:12]}.png"
        words = [word for word in re.split(r"\W", row["sample_id"]) if len(word) > 2]
        assert words
        assert not any(word in file.removesuffix(".png") for word in words)
        assert set(chunks(out / file)) == {b"IHDR", b"IDAT", b"IEND"}
        picture = np.asarray(Image.open(out / file))
        assert picture.shape == (SIZE, 2 * SIZE, 3)
        assert np.array_equal(picture[:, :SIZE], np.stack([plane] * 3, 2))
        alone = compute_heatmaps(network, torch.tensor(plane)[None], architecture=name)[0].numpy()
        assert np.abs(picture[:, SIZE:].astype(int) - overlay_heatmap(plane, alone)).max() <= 2  # batch rounding


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "model", "brainmrnet")
    for folder in ("a", "b"):
        write_heatmaps(bundle, list(some_planes(2)), rows_of(2), tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 3
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_no_rows_give_an_empty_table(tmp_path: Path) -> None:
    table = write_heatmaps(make_bundle(tmp_path / "model", "brainmrnet"), [], [], tmp_path / "out")
    assert len(table) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["heatmaps.parquet"]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    bundle, rows, out = make_bundle(tmp_path / "model", "brainmrnet"), rows_of(1), tmp_path / "out"
    name = write_heatmaps(bundle, list(some_planes(1)), rows, out)["file"][0].as_py()
    for taken in (name, "heatmaps.parquet"):
        (out / taken).unlink()
        (out / taken).mkdir()
        with pytest.raises(OutputError) as error:
            write_heatmaps(bundle, list(some_planes(1)), rows, out)
        assert str(error.value) == f"{out / taken} cannot be written (Is a directory): fix the cause and {RERUN}"
        assert not list(out.glob("*.tmp"))
        (out / taken).rmdir()
        (out / taken).touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write_heatmaps(bundle, list(some_planes(1)), rows, tmp_path / "model" / WEIGHTS)
