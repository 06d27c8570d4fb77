"""Model folders made on the spot, from networks that were never trained."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from brainscale.config.class_names import DEFAULT_CLASSES
from brainscale.config.data_sections import PreprocessConfig
from brainscale.models.bundle import NOVELTY, ONNX, WEIGHTS, Bundle, open_bundle, write_model_info
from brainscale.models.classifier import Classifier
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.novelty import write_novelty
from brainscale.models.novelty_fit import fit_novelty
from brainscale.models.onnx_export import export_onnx
from brainscale.models.registry import NETWORKS, build_network, count_parameters
from brainscale.training.environment import read_library_versions


def network_with_statistics(name: str) -> nn.Module:
    """A network whose batch norms have seen something: folding them into convolutions must not be an identity."""
    network = build_network(name, 2, seed=3).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr,operator]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr,operator]
    return network


def random_planes(count: int, seed: int = 0, side: int = 64) -> np.ndarray:
    """Planes of noise, uint8 [count, side, side]."""
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), np.uint8)


def write_novelty_of(network: nn.Module, name: str, side: int, path: Path) -> None:
    """What novelty is computed from, as if noise had trained and validated the network."""
    with torch.no_grad():
        planes = torch.from_numpy(random_planes(60, side=side))
        features = Classifier(network, NETWORKS[name].first_stage)(planes)[1].numpy()
    reference = fit_novelty(features[:30], features[30:])
    assert reference is not None
    write_novelty(reference, path)


def make_bundle(folder: Path, network: nn.Module, name: str, side: int = 64, views: int = 1) -> Bundle:
    """A model folder of a network for two classes; the ONNX export takes seconds."""
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / WEIGHTS)
    export_onnx(NetworkSpec(architecture=name, views=views), 2, side, network.state_dict(), folder / ONNX)
    write_novelty_of(network, name, side, folder / NOVELTY)
    write_model_info(
        folder,
        {
            "architecture": name,
            "views": views,
            "classes": DEFAULT_CLASSES,
            "preprocess": PreprocessConfig(image_size=side),
            "operating_points": {"slice": {"threshold": 0.5, "threshold_source": "fixed"}},
            "parameters": count_parameters(network),
            "manifest_sha256": "0",
            "config_sha256": "0",
            "novelty_source": "noise",
            "seed": 3,
            "epoch": 1,
            "versions": read_library_versions(),
        },
    )
    return open_bundle(folder)
