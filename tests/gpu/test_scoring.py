"""Scoring on a GPU agrees with the CPU."""

import numpy as np
import pytest
import torch

from brainscale.config.sections import ARCHITECTURES
from brainscale.models.engines import EngineOptions, TorchEngine
from tests.support.bundles import make_bundle, network_with_statistics

pytestmark = [pytest.mark.gpu]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_engines_agree(gpu: torch.device, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """To 1e-5 in float32; bf16 to 0.05."""
    bundle = make_bundle(tmp_path_factory.mktemp("b") / "model", network_with_statistics(name), name)
    network = (bundle.folder / "model.safetensors").read_bytes()
    side = bundle.info.preprocess.image_size
    planes = np.random.default_rng(0).integers(0, 256, (300, side, side), np.uint8)
    found = {}
    for key, options in {
        "cpu": EngineOptions(name="torch"),
        "gpu": EngineOptions(name="torch", on_gpu=True),
        "bf16": EngineOptions(name="torch", on_gpu=True, precision="bf16"),
    }.items():
        found[key] = TorchEngine(bundle.info, network, options, 2)(planes).probabilities
    assert np.abs(found["gpu"] - found["cpu"]).max() <= 1e-5
    assert np.abs(found["bf16"] - found["cpu"]).max() <= 0.05
