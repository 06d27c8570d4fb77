"""Heatmaps by every method: they point where a network looks, and leave it as it was."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.config.sections import ARCHITECTURES
from brainscale.models.bundle import ModelInfo
from brainscale.models.classifier import Classifier
from brainscale.models.engines import EngineOutput
from brainscale.models.explained_score import log_odds, score_of_engine, score_of_network, take_structure_out
from brainscale.models.faithfulness import is_peak_in, measure_heatmap, random_map
from brainscale.models.heatmaps import METHODS, compute_heatmaps, name_heatmap_method
from brainscale.models.integrated_gradients import integrated_gradients
from brainscale.models.normalisation import normalise
from brainscale.models.perturbation import draw_masks, occlusion_map, rise_map
from brainscale.models.registry import NETWORKS, HeatmapMethod, build_network

SIZE = 64
FOR_ANY_NETWORK: tuple[HeatmapMethod, ...] = ("occlusion", "rise", "integrated gradients")


class PatchNetwork(nn.Module):
    """Knows a tumour by the detail, mean absolute difference of neighbours, in one patch alone."""

    def __init__(self, row: int, column: int, classes: int = 2) -> None:
        super().__init__()
        self.rows, self.columns = slice(row, row + 16), slice(column, column + 16)
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        patch = x[:, 0, self.rows, self.columns]
        detail = (patch[:, 1:] - patch[:, :-1]).abs().mean((1, 2))
        tumour = self.gain * (detail - 0.5)
        return torch.stack([-tumour, tumour, *[torch.zeros_like(tumour)] * (self.classes - 2)], 1)


def textured_planes(count: int, seed: int = 0) -> np.ndarray:
    """Planes with the same kind of detail everywhere."""
    noise = np.random.default_rng(seed).normal(size=(count, SIZE, SIZE))
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1))
    return np.asarray(np.clip(128 + 50 * smooth / smooth.std(), 0, 255), np.uint8)


def heat(network: nn.Module, planes: np.ndarray, method: HeatmapMethod, target: int | None = None) -> np.ndarray:
    maps = compute_heatmaps(network, torch.from_numpy(planes), target, architecture="brainmrnet", method=method)
    return np.asarray(maps.numpy())


@pytest.mark.parametrize("method", FOR_ANY_NETWORK)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_map_points_at_the_only_patch_that_a_network_sees(method: HeatmapMethod, classes: int) -> None:
    network, planes = PatchNetwork(12, 36, classes).eval(), textured_planes(3)
    patch = np.zeros((SIZE, SIZE), bool)
    patch[network.rows, network.columns] = True
    score = score_of_network(network)
    for plane, heatmap in zip(planes, heat(network, planes, method), strict=True):
        assert is_peak_in(heatmap, patch)
        own, blobs = (measure_heatmap(score, plane, each) for each in (heatmap, random_map(plane, "test")))
        assert own.deletion < blobs.deletion
        assert own.faithfulness > blobs.faithfulness
    if method == "integrated gradients":
        assert (heat(network, planes, method)[:, 48:, :16] == 0).all()  # far from the patch, gradients are 0


@pytest.mark.parametrize("method", FOR_ANY_NETWORK)
def test_maps_of_one_class_and_of_all_others_are_opposite(method: HeatmapMethod) -> None:
    network, planes = PatchNetwork(12, 36).eval(), textured_planes(1)
    tumour, none = (heat(network, planes, method, target)[0] for target in (None, 0))
    assert tumour[20, 44] > 0.5
    assert none[20, 44] == 0
    assert np.array_equal(heat(network, planes, method, 1)[0], tumour)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, NETWORKS[name].heatmap_method) for name in ARCHITECTURES),
        ("brainmrnet", "occlusion"),
        ("brainmrnet", "rise"),
    ],
)
def test_a_heatmap_leaves_the_network_as_it_was(name: str, method: HeatmapMethod) -> None:
    network, planes = build_network(name, 3, seed=3).eval(), torch.from_numpy(textured_planes(1))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    maps = compute_heatmaps(network, planes, architecture=name, method=method)
    assert (maps.shape, maps.dtype) == ((1, SIZE, SIZE), torch.float32)
    assert maps.isfinite().all()
    assert maps.amin() >= 0
    assert set(maps.amax((1, 2)).tolist()) <= {0.0, 1.0}
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_plane_gives_the_same_map(method: HeatmapMethod) -> None:
    network, planes = build_network("brainmrnet", 2, seed=3).eval(), textured_planes(1)
    with torch.no_grad():
        first = heat(network, planes, method)
    assert np.array_equal(heat(network, planes, method), first)


def test_a_network_in_training_is_refused() -> None:
    network = build_network("brainmrnet", 2, seed=3).eval()
    network.get_submodule("head.dropout").train()
    with pytest.raises(ValueError, match=r"in training mode: call its eval\(\) first"):
        compute_heatmaps(network, torch.from_numpy(textured_planes(1)), architecture="brainmrnet")


def test_integrated_gradients_add_up_to_the_difference_of_the_scores() -> None:
    network, (plane,) = build_network("densenet121", 2, seed=3).eval(), textured_planes(1)
    grey, filling = (torch.from_numpy(some).float() for some in (plane, take_structure_out(plane)))
    total = float(integrated_gradients(network, grey, filling, steps=128).sum())
    with torch.no_grad():
        filled, whole = log_odds(network(normalise(torch.stack([filling, grey])))).tolist()
    assert total == pytest.approx(whole - filled, abs=0.05 * abs(whole - filled))


def test_occlusion_is_the_fall_of_the_score_over_the_windows_of_a_cell() -> None:
    plane = np.zeros((SIZE, SIZE), np.uint8)
    plane[8:16, 8:16] = 64

    def blacken(plane: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(hidden, np.uint8(0), plane))

    def score(planes: np.ndarray) -> np.ndarray:
        return np.asarray(planes.sum((1, 2)) / 4096.0)

    drops = occlusion_map(score, plane, 8, blacken)
    expected = np.zeros((8, 8))
    for row in range(3):  # four windows hold the bright cell: of a cell's own four, so many hold it too
        for column in range(3):
            expected[row, column] = (2 - abs(row - 1)) * (2 - abs(column - 1)) / 4
    assert np.allclose(drops, expected)
    scored: list[int] = []

    def count(planes: np.ndarray) -> np.ndarray:
        scored.append(len(planes))
        return score(planes)

    occlusion_map(count, plane, 8, blacken)
    assert scored == [1 + 4]  # windows that change nothing are not scored


def test_rise_finds_the_weight_of_each_region() -> None:
    plane, filling = np.full((SIZE, SIZE), 200, np.uint8), np.zeros((SIZE, SIZE), np.uint8)

    def score(planes: np.ndarray) -> np.ndarray:
        return np.asarray(planes[:, 10:20, 40:50].mean((1, 2)) / 200)

    slopes = rise_map(score, plane, filling, draw_masks(SIZE, 0, count=1000))
    assert is_peak_in(slopes, np.pad(np.ones((14, 14), bool), ((8, 42), (38, 12))))
    assert np.abs(slopes[40:, :20]).max() < 0.3 * slopes.max()


@pytest.mark.parametrize("classes", [2, 3])
def test_an_engine_gives_the_score_of_its_network(classes: int) -> None:
    network, planes = build_network("brainmrnet", classes, seed=3).eval(), textured_planes(2)

    def engine(planes: np.ndarray) -> EngineOutput:
        with torch.no_grad():
            return EngineOutput(*(output.numpy() for output in Classifier(network)(torch.from_numpy(planes))))

    assert np.allclose(score_of_engine(engine)(planes), score_of_network(network)(planes), atol=1e-5)


def test_the_method_of_a_network_is_the_registrys() -> None:
    planes = textured_planes(1)
    for name in ("brainmrnet", "brainmrnet_paper"):
        network, method = build_network(name, 2, seed=3).eval(), NETWORKS[name].heatmap_method
        info = ModelInfo.model_construct(architecture=name, classes=DEFAULT_CLASSES)
        assert name_heatmap_method(info) == method == "integrated gradients"
        named = compute_heatmaps(network, torch.from_numpy(planes), architecture=name, method=method)
        assert torch.equal(compute_heatmaps(network, torch.from_numpy(planes), architecture=name), named)
