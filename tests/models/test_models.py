from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torchvision import models

from brainscale.config.sections import ARCHITECTURES
from brainscale.errors import UsageError
from brainscale.models.brainmrnet import BrainMRNet, BrainMRNetPaper
from brainscale.models.registry import NETWORKS, build_network, count_parameters
from brainscale.models.resize import AdaptiveAverage, average_matrix, bilinear_matrix
from brainscale.training.arguments import PARAMETERS
from tests.support.shared import shared


def test_the_names_are_the_builders() -> None:
    assert tuple(NETWORKS) == ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameter_counts(name: str) -> None:
    assert count_parameters(build_network(name, 2)) == PARAMETERS[name]


def test_three_classes_of_the_paper() -> None:
    assert count_parameters(build_network("brainmrnet_paper", 3)) == 603_519


def test_golden_network() -> None:
    """What the published network gives, in evaluation and after one training step."""
    golden = load_file(shared("reference/brainmrnet_golden.safetensors"))
    network = build_network("brainmrnet", 2)
    weights = {k.removeprefix("weights/"): v for k, v in golden.items() if k.startswith("weights/")}
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    network.load_state_dict(weights | counters)
    assert isinstance(network, BrainMRNet)
    images = golden["eval/input"]
    network.eval()
    with torch.no_grad():
        first = network.stage1(images)
        second = network.stage2(first)
        column = network.hypercolumn([first, second, network.stage3(second)])
        assert torch.allclose(column, golden["eval/hypercolumn"], rtol=0, atol=1e-5)
        assert torch.allclose(network(images), golden["eval/logits"], rtol=0, atol=1e-5)

    network.train()
    network.head.dropout.p = 0.0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = F.cross_entropy(network(images), golden["train/labels"].long())
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert loss.item() == pytest.approx(golden["train/loss"].item(), abs=1e-5)
    network.eval()
    with torch.no_grad():
        assert torch.allclose(network(images), golden["train/logits_after_one_step"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("height", "width", "classes"), [(64, 64, 2), (96, 80, 4)])
def test_one_real_step_at_any_size_and_any_classes(name: str, height: int, width: int, classes: int) -> None:
    network = build_network(name, classes).train()
    logits = network(torch.randn(2, 3, height, width))
    assert logits.shape == (2, classes)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


def stages(height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, height // d, width // d, generator=generator) for c, d in ((32, 2), (64, 4), (128, 8))]


def test_the_hypercolumn_is_the_mean_of_224_resized_planes() -> None:
    for height, width in ((224, 224), (72, 120)):
        planes = stages(height, width)
        resized = [F.interpolate(s, (4, 4), mode="bilinear", align_corners=False) for s in planes]
        expected = torch.cat(resized, 1).mean(1).flatten(1)
        assert torch.allclose(BrainMRNet(2).hypercolumn(planes), expected, atol=1e-6)


def test_the_papers_hypercolumn_is_the_mean_over_space_after_upsampling() -> None:
    planes = stages(224, 224)
    resized = [F.interpolate(s, (224, 224), mode="bilinear", align_corners=False) for s in planes]
    expected = torch.cat([r.mean((2, 3)) for r in resized], 1)
    assert torch.allclose(BrainMRNetPaper(2).hypercolumn(planes), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 14, 110])
def test_matrices_are_what_torch_does(size: int) -> None:
    line = torch.randn(1, 1, size)
    resized = F.interpolate(line, 4, mode="linear", align_corners=False)
    assert torch.allclose(bilinear_matrix(size, 4) @ line[0, 0], resized[0, 0], atol=1e-6)
    assert torch.allclose(average_matrix(size, 7) @ line[0, 0], F.adaptive_avg_pool1d(line, 7)[0, 0], atol=1e-6)
    square = torch.randn(2, 3, size, size)
    assert torch.allclose(AdaptiveAverage(7)(square), F.adaptive_avg_pool2d(square, 7), atol=1e-6)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    one, same, other = (build_network("brainmrnet", 2, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["head.classifier.weight"], other["head.classifier.weight"])


def test_an_unknown_name_is_corrected() -> None:
    with pytest.raises(UsageError, match="unknown model 'resnet5': did you mean 'resnet50'\\? Choose from brainmrnet,"):
        build_network("resnet5", 2)


@pytest.mark.parametrize("name", ["brainmrnet", "resnet50", "densenet121"])
def test_weights_of_other_classes_fill_all_but_the_last_layer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    given = build_network(name, 10, seed=1).state_dict()
    save_file(given, path)
    loaded = build_network(name, 2, str(path), seed=2).state_dict()
    own = build_network(name, 2, seed=2).state_dict()
    for key, value in loaded.items():
        assert torch.equal(value, own[key] if key.startswith(NETWORKS[name].head) else given[key]), key


def test_weights_that_cannot_be_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file .*gone.safetensors for vgg16: give the path .* or set"):
        build_network("vgg16", 2, str(tmp_path / "gone.safetensors"))
    with pytest.raises(UsageError, match="there are no ImageNet weights for brainmrnet"):
        build_network("brainmrnet", 2, "imagenet")
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(UsageError, match="is not a safetensors file"):
        build_network("brainmrnet", 2, str(tmp_path / "text"))
    save_file(build_network("brainmrnet", 2).state_dict(), tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="do not fit the network"):
        build_network("brainmrnet_paper", 2, str(tmp_path / "b.safetensors"))


def test_a_download_that_fails_says_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UsageError, match="could not be downloaded .* allow the download, or set model.weights"):
        build_network("resnet50", 2, "imagenet")


def test_imagenet_weights_come_from_torchs_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that torchvision would have downloaded, made here, with densenet's old key names."""

    given = build_network("densenet121", 1000, seed=3).state_dict()
    old = {
        k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in k else k: v
        for k, v in given.items()
    }
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = models.get_weight(NETWORKS["densenet121"].imagenet).url
    cached = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
    torch.save(old, cached)
    loaded = build_network("densenet121", 2, "imagenet").state_dict()
    key = "features.denseblock1.denselayer1.norm1.weight"
    assert torch.equal(loaded[key], given[key])
