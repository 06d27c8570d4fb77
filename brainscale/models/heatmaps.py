"""Compute heatmaps: which regions of a plane raised the probability of a tumour. They need not show the tumour itself.

How well each method finds these regions is measured by `benchmarks/heatmap_faithfulness.py`; the registry names the
one for each network.
"""

import os
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from brainscale.models.bundle import Bundle, ModelInfo
from brainscale.models.class_activation import cam_method, class_activation_map
from brainscale.models.classifier import load_classifier
from brainscale.models.engines import Engine, EngineOptions, load_engine, read_network, resolve_engine
from brainscale.models.explained_score import Score, score_of_engine, score_of_network, take_structure_out
from brainscale.models.integrated_gradients import integrated_gradients, smooth_attributions
from brainscale.models.network_spec import ENSEMBLE, NetworkSpec
from brainscale.models.perturbation import draw_masks, occlusion_map, rise_map
from brainscale.models.registry import NETWORKS, HeatmapMethod
from brainscale.models.resize import bilinear_matrix, resample
from brainscale.seeds import derive

BATCH = 8
METHODS: tuple[HeatmapMethod, ...] = get_args(HeatmapMethod)
"""Methods for any network; `cam` is the kind of class activation map that `cam_method` names."""


def compute_heatmaps(
    network: nn.Module,
    planes: Tensor,
    target: int | None = None,
    *,
    architecture: str,
    method: HeatmapMethod | None = None,
    score: Score | None = None,
) -> Tensor:
    """Return where the evidence for a tumour, or for one class, is.

    Args:
        network: a network in evaluation mode; it is not changed.
        planes: uint8 [N, S, S], on the device of the network.
        target: index of a class; None for a tumour, that is any class but the first.
        architecture: name of the network in the registry, or `ensemble` for any mean of several.
        method: method; by default the registry's for this network.
        score: a faster way to compute the network's score of `target`, for occlusion and RISE.

    Returns:
        float32 [N, S, S] in 0..1. The maximum of each heatmap is 1, or all of it is 0 if there is no evidence.

    Raises:
        ValueError: the network is in training mode, where running it would change it.
    """
    if any(module.training for module in network.modules()):
        raise ValueError("the network is in training mode: call its eval() first")
    maps = compute_evidence(network, planes, target, architecture=architecture, method=method, score=score).clamp(min=0)
    maps = resample(maps, *(bilinear_matrix(maps.shape[axis], planes.shape[axis]) for axis in (1, 2)))
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def compute_evidence(
    network: nn.Module,
    planes: Tensor,
    target: int | None = None,
    *,
    architecture: str,
    method: HeatmapMethod | None = None,
    score: Score | None = None,
) -> Tensor:
    """Return the signed maps from which `compute_heatmaps` makes heatmaps, float32 [N, h, w]; the same arguments."""
    method = method or _choose_method(architecture)
    if method == "cam":
        return class_activation_map(network, planes, target, architecture=architecture)
    pairs = [(plane, take_structure_out(plane)) for plane in planes.cpu().numpy()]
    if method == "integrated gradients":
        fillings = torch.from_numpy(np.stack([filling for _, filling in pairs])).to(planes.device)
        greys = zip(planes.float(), fillings.float(), strict=True)
        attributions = (integrated_gradients(network, plane, filling, target) for plane, filling in greys)
        maps = [smooth_attributions(each.cpu().numpy()) for each in attributions]
    elif method == "occlusion":
        score = score or score_of_network(network, target)
        maps = [occlusion_map(score, plane) for plane, _ in pairs]
    else:
        score, masks = score or score_of_network(network, target), draw_masks(planes.shape[-1], derive(0, "rise"))
        maps = [rise_map(score, *pair, masks) for pair in pairs]
    return torch.from_numpy(np.stack(maps)).to(planes.device)


def _choose_method(architecture: str) -> HeatmapMethod:
    """Return the method for a network; a mean of several has no single feature map for a class activation map."""
    return "integrated gradients" if architecture == ENSEMBLE else NETWORKS[architecture].heatmap_method


def _explained_architecture(spec: NetworkSpec) -> str:
    return ENSEMBLE if spec.is_averaged else spec.architecture


def name_heatmap_method(info: ModelInfo) -> str:
    """Return the name of the method for a model: `occlusion`, …, or the kind of class activation map."""
    architecture, classes = _explained_architecture(info.network), len(info.classes)
    method = _choose_method(architecture)
    return cam_method(architecture, classes) if method == "cam" else method


def compute_heatmap_batches(
    info: ModelInfo, weights: bytes, planes: Sequence[np.ndarray] | np.ndarray, engine: Engine
) -> Iterator[np.ndarray]:
    """Yield heatmaps for a tumour, float32 [N, S, S] in 0..1, one batch of planes at a time.

    Args:
        info: description of the model.
        weights: contents of its safetensors file.
        planes: uint8 [S, S] each.
        engine: engine of the model, which is faster than its network.
    """
    network = load_classifier(info.network, len(info.classes), weights).get_submodule("network")
    architecture, score = _explained_architecture(info.network), score_of_engine(engine)
    for start in range(0, len(planes), BATCH):
        batch = torch.from_numpy(np.stack(list(planes[start : start + BATCH])))
        yield compute_heatmaps(network, batch, architecture=architecture, score=score).numpy()


def load_cpu_engine(bundle: Bundle) -> Engine:
    """Start an engine that uses all CPUs that this process may use."""
    options = resolve_engine(EngineOptions(), gpus=0)
    return load_engine(bundle.info, read_network(bundle, options), options, threads=len(os.sched_getaffinity(0)))
