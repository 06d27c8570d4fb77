"""Views of an image and ensembles, as networks: what they average, and that both engines agree."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from brainscale.config.sections import ARCHITECTURES, AugmentConfig
from brainscale.models.classifier import Classifier, load_classifier
from brainscale.models.engines import EngineOptions, load_engine, read_network
from brainscale.models.ensemble import Ensemble, count_model_flops
from brainscale.models.heatmaps import compute_heatmaps
from brainscale.models.network_spec import ENSEMBLE, NetworkSpec
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS, build_network, count_flops
from brainscale.models.views import iterate_views, rotate
from brainscale.training.augment import _transform_parameters
from tests.support.bundles import make_bundle, network_with_statistics, random_planes

SMALL = "brainmrnet_paper"
SIX = NetworkSpec(architecture=SMALL, views=6)


class Linear(nn.Module):
    """Logits from a fixed, random weighting of the pixels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weights = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(seed)) / 8

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", x, self.weights)


def spec(views: int = 1, temperature: float = 1.0) -> NetworkSpec:
    return NetworkSpec(architecture=SMALL, views=views, temperature=temperature)


def probabilities(network: nn.Module, planes: np.ndarray | Tensor) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(network(normalise(torch.as_tensor(planes))), 1).numpy()


def test_views_are_those_of_the_augmentation() -> None:
    """Six draws of flip and angle, and nothing else, give the six views in their order."""
    planes = torch.from_numpy(random_planes(3, side=32)).float()
    draws = np.array([[flip, angle, 0, 0, 0, 0, 0] for angle in (0, -1, 1) for flip in (1, -1)], np.float32)
    matrices, gain, offset = _transform_parameters(draws, AugmentConfig(flip=True, rotate=10.0))
    assert (gain == 1).all()
    assert (offset == 0).all()
    views = list(iterate_views(planes, 6))
    for plane in range(3):
        grid = affine_grid(torch.from_numpy(matrices), [6, 1, 32, 32], align_corners=False)
        augmented = grid_sample(planes[plane].expand(6, 1, 32, 32), grid, align_corners=False)[:, 0]
        # the mirror image of a plane that is turned one way is turned the other way, so the order differs
        found = torch.stack([view[plane] for view in views])
        distances = (found[:, None] - augmented[None]).abs().amax((2, 3))
        assert sorted(distances.argmin(1).tolist()) == list(range(6))
        assert distances.amin(1).max() < 1e-2  # grey levels


@pytest.mark.parametrize("views", [1, 2, 6])
def test_views_are_the_first_of_the_larger_number(views: int) -> None:
    planes = torch.rand(2, 3, 16, 16)
    found, six = list(iterate_views(planes, views)), list(iterate_views(planes, 6))
    assert len(found) == views
    assert all(torch.equal(one, other) for one, other in zip(found, six, strict=False))
    assert torch.equal(found[0], planes)


def test_what_comes_from_outside_is_black_and_not_the_mean() -> None:
    white = torch.full((1, 16, 16), 255.0)
    turned = rotate(white, 10)
    assert turned[0, 0, 0] == 0
    assert turned[0, 8, 8] == 255
    network = Linear(0)
    expected = np.mean([probabilities(network, view) for view in iterate_views(torch.full((1, 8, 8), 255.0), 6)], 0)
    found = probabilities(Ensemble([network], [spec(6)]), torch.full((1, 8, 8), 255.0))
    assert np.abs(found - expected).max() < 1e-6


@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4), views=st.sampled_from([1, 2, 6]))
def test_an_ensemble_is_the_mean_in_any_order(seeds: list[int], views: int) -> None:
    planes = random_planes(3, seed=sum(seeds), side=8)
    networks = [(Linear(seed), spec(views if seed % 2 else 1, 1 + seed / 50)) for seed in seeds]
    each = [probabilities(Ensemble([network], [one]), planes) for network, one in networks]
    found = [probabilities(Ensemble(*zip(*order, strict=True)), planes) for order in permutations(networks)]
    assert np.abs(np.array(found) - np.mean(each, 0)).max() < 1e-6
    assert np.abs(np.array(found) - found[0]).max() <= 2e-7


@given(st.integers(0, 99), st.sampled_from([2, 6]))
def test_a_mirrored_image_has_the_same_probability(seed: int, views: int) -> None:
    network, planes = Ensemble([Linear(seed)], [spec(views)]), random_planes(4, seed=seed, side=8)
    assert np.abs(probabilities(network, planes) - probabilities(network, planes[..., ::-1].copy())).max() < 1e-6
    alone = Linear(seed)
    assert np.abs(probabilities(alone, planes) - probabilities(alone, planes[..., ::-1].copy())).max() > 1e-6


def test_an_ensemble_of_one_member_is_the_member() -> None:
    network, planes = network_with_statistics(SMALL), random_planes(3)
    one = NetworkSpec(architecture=ENSEMBLE, members=(spec(),))
    weights = network.state_dict()
    with torch.no_grad():
        alone = load_classifier(spec(), 2, save(weights))(torch.from_numpy(planes))
        member = {f"member.0.{name}": value for name, value in weights.items()}
        found = load_classifier(one, 2, save(member))(torch.from_numpy(planes))
    assert (found[0] - alone[0]).abs().max() < 2e-7
    assert torch.equal(found[1], alone[1])


def test_a_members_temperature_counts_before_the_mean() -> None:
    network, planes = Linear(1), random_planes(2, side=8)
    with torch.no_grad():
        expected = torch.softmax(network(normalise(torch.from_numpy(planes))) / 2.5, 1).numpy()
    assert np.abs(probabilities(Ensemble([network], [spec(temperature=2.5)]), planes) - expected).max() < 1e-6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_engines_agree_on_six_views(name: str, tmp_path: Path) -> None:
    network = network_with_statistics(name)
    bundle, planes = make_bundle(tmp_path / "model", network, name, views=6), random_planes(3, seed=1)
    views = list(iterate_views(torch.from_numpy(planes).float(), 6))
    eager = np.mean([probabilities(network, view) for view in views], 0)
    with torch.no_grad():
        features = Classifier(network, NETWORKS[name].first_stage)(torch.from_numpy(planes))[1].numpy()
    for engine in ("onnx", "torch"):
        options = EngineOptions(name=engine)
        found = load_engine(bundle.info, read_network(bundle, options), options)(planes)
        assert np.abs(found.probabilities - eager).max() < 1e-5
        assert np.abs(found.features - features).max() < 1e-4  # novelty is that of the image itself


def test_heatmaps_explain_the_mean() -> None:
    planes = torch.from_numpy(random_planes(1))
    network = Ensemble([build_network(SMALL, 2, seed=seed) for seed in (1, 2)], [spec(2), spec()]).eval()
    (heatmap,) = compute_heatmaps(network, planes, architecture=ENSEMBLE)
    assert heatmap.shape == (64, 64)
    assert heatmap.max() == 1
    alone = compute_heatmaps(network.member[0], planes, architecture=SMALL)[0]
    assert (heatmap - alone).abs().max() > 0.01


def test_gradients_are_those_of_the_views() -> None:
    """They are computed with every layer run twice, to save memory."""
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    network, black = Linear(3), normalise(torch.zeros(1, 1, 1))
    (found,) = torch.autograd.grad(Ensemble([network], [spec(6)])(x)[:, 1].sum(), x)
    rows = torch.stack([torch.softmax(network(view + black), 1) for view in iterate_views(x - black, 6)])
    (expected,) = torch.autograd.grad(rows.mean(0).log()[:, 1].sum(), x)
    assert torch.allclose(found, expected, atol=1e-6)


def test_operations_count_every_view_and_member() -> None:
    once = count_flops(SMALL, 2, 64)
    assert count_model_flops(SIX, 2, 64) == 6 * once
    both = NetworkSpec(architecture=ENSEMBLE, members=(SIX, spec()))
    assert count_model_flops(both, 2, 64) == 7 * once
