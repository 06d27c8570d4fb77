"""Draw heatmaps: which regions of a plane raised the probability of a tumour. They need not show the tumour itself.

The method depends on the network. Class activation maps (CAM; Zhou et al., CVPR 2016) are exact if a network averages
its last feature map over space and has one linear layer after it. HiResCAM (Draelos and Carin 2020) is for the two
networks with a hypercolumn, which gives all channels the same weight: there, the mean gradient of Grad-CAM would show
only where features are large. Grad-CAM (Selvaraju et al., ICCV 2017) is for all others.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn

from brainscale.models.brainmrnet import HYPERCOLUMN_SIDE
from brainscale.models.bundle import Bundle, ModelInfo, mark_edited
from brainscale.models.classifier import load_classifier
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS
from brainscale.models.resize import average_matrix, bilinear_matrix, resample
from brainscale.storage.local import make_folder, replacing
from brainscale.storage.tables import write_table

BATCH = 8
COLOURS = "viridis"
"""Colour map of the overlay: readable for the colour-blind, and without white, the colour of bright tissue."""
OPACITY = 0.6
COLUMNS = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # name of the picture: the plane, and the plane with its heatmap
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("probability", pa.float32()),  # of a tumour: 1 − P(first class)
        pa.field("method", pa.string(), nullable=False),  # cam, hirescam or grad-cam
    ]
)


def compute_heatmaps(network: nn.Module, planes: Tensor, target: int | None = None, *, architecture: str) -> Tensor:
    """Return where the evidence for a tumour, or for one class, is.

    Args:
        network: a network in evaluation mode; it is not changed.
        planes: uint8 [N, S, S], on the device of the network.
        target: index of a class; None for a tumour, that is any class but the first.
        architecture: name of the network in the registry.

    Returns:
        float32 [N, S, S] in 0..1. The maximum of each heatmap is 1, or all of it is 0 if there is no evidence.

    Raises:
        ValueError: the network is in training mode, where running it would change it.
    """
    if any(module.training for module in network.modules()):
        raise ValueError("the network is in training mode: call its eval() first")
    maps = compute_evidence(network, planes, target, architecture=architecture).clamp(min=0)
    maps = resample(maps, *(bilinear_matrix(maps.shape[axis], planes.shape[axis]) for axis in (1, 2)))
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def compute_evidence(network: nn.Module, planes: Tensor, target: int | None = None, *, architecture: str) -> Tensor:
    """Return the signed map from which `compute_heatmaps` makes a heatmap, float32 [N, h, w].

    The arguments are those of `compute_heatmaps`. The mean over space of an exact class activation map, plus the
    difference of the two biases, is equal to `log_odds`.
    """
    record = NETWORKS[architecture]
    is_averaged = record.cam_method == "cam"
    feature_maps: list[Tensor] = []

    def keep_feature_map(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        feature_maps.append((output.relu() if is_averaged else output).requires_grad_())
        torch.set_grad_enabled(True)  # only from here on: gradients of the layers before are not needed
        return feature_maps[0].clone()  # the layers after it may work in place

    with torch.no_grad(), network.get_submodule(record.cam_layer).register_forward_hook(keep_feature_map):
        logits = network(normalise(planes))
        score = log_odds(logits, target).sum()
    if is_averaged:  # not the gradient at the feature map, which the ReLU would set to 0 where the map is 0
        weights = torch.autograd.grad(score, logits)[0] @ network.get_parameter(record.head + "weight").detach()
    else:
        gradient = torch.autograd.grad(score, feature_maps)[0]
        if record.cam_method == "hirescam":
            product = (gradient * feature_maps[0].detach()).sum(1)
            # averaged over the cells of the hypercolumn, since the head sees nothing finer
            return resample(product, *(average_matrix(length, HYPERCOLUMN_SIDE) for length in product.shape[1:]))
        weights = gradient.mean((2, 3))
    return torch.einsum("nc,nchw->nhw", weights, feature_maps[0].detach())


def heatmap_method(architecture: str, classes: int) -> str:
    """Return the method for a network: `cam`, `hirescam` or `grad-cam`; CAM is exact for two classes only."""
    cam_method = NETWORKS[architecture].cam_method
    return "grad-cam" if cam_method == "cam" and classes > 2 else cam_method


def log_odds(logits: Tensor, target: int | None = None) -> Tensor:
    """Return log(P / (1 − P)) of a tumour, or of the class `target`, for logits [N, classes]; heatmaps explain it."""
    index = target or 0
    others = torch.cat([logits[:, :index], logits[:, index + 1 :]], 1).logsumexp(1)
    return others - logits[:, index] if target is None else logits[:, index] - others


def overlay_heatmap(plane: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Return a plane, uint8 [S, S], with its heatmap, float [S, S] in 0..1, over it: RGB uint8 [S, S, 3]."""
    opacity = OPACITY * heatmap[..., None]
    colours = 255 * colormaps[COLOURS](heatmap)[..., :3]
    return np.asarray(np.rint((1 - opacity) * plane[..., None] + opacity * colours), np.uint8)


def write_heatmaps(
    bundle: Bundle, planes: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], folder: Path, device: str = "cpu"
) -> pa.Table:
    """Write a PNG for each row and the table heatmaps.parquet, and return the table.

    Args:
        bundle: the model that scored the rows.
        planes: one plane for each row, uint8 [S, S].
        rows: rows with sample_id and probability; the files are numbered in their order.
        folder: folder for the pictures; created if it does not exist.
        device: device to run the network on.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    folder = make_folder(folder)
    method = heatmap_method(bundle.info.architecture, len(bundle.info.classes))
    # hashes, because sample ids may contain the name of a patient
    id_hashes = [hashlib.sha256(row["sample_id"].encode()).hexdigest()[:12] for row in rows]
    files = [f"{number:03d}-{id_hash}.png" for number, id_hash in enumerate(id_hashes, 1)]
    for file, picture in zip(files, render_heatmaps(bundle, planes, device), strict=True):
        with replacing(folder / file) as temporary:
            temporary.write_bytes(picture)
    described = [{**row, "file": file, "method": method} for row, file in zip(rows, files, strict=True)]
    table = pa.Table.from_pylist(described, schema=COLUMNS)
    write_table(mark_edited(table, bundle), folder / "heatmaps.parquet", "heatmaps")
    return table


def render_heatmaps(bundle: Bundle, planes: Sequence[np.ndarray], device: str = "cpu") -> Iterator[bytes]:
    """Yield a PNG for each plane, uint8 [S, S]: the plane on the left, and with its heatmap on the right."""
    batches = compute_heatmap_batches(bundle.info, bundle.weights.read_bytes(), planes, device)
    for plane, heatmap in zip(planes, (heatmap for batch in batches for heatmap in batch), strict=True):
        picture = np.hstack([np.stack([plane] * 3, 2), overlay_heatmap(plane, heatmap)])
        png = io.BytesIO()
        Image.fromarray(picture).save(png, format="PNG")
        yield png.getvalue()


def compute_heatmap_batches(
    info: ModelInfo, weights: bytes, planes: Sequence[np.ndarray] | np.ndarray, device: str = "cpu"
) -> Iterator[np.ndarray]:
    """Yield heatmaps for a tumour, float32 [N, S, S] in 0..1, one batch of planes at a time.

    Args:
        info: description of the model.
        weights: contents of its safetensors file.
        planes: uint8 [S, S] each.
        device: device to run the network on.
    """
    classifier = load_classifier(info.architecture, len(info.classes), weights)
    network = classifier.get_submodule("network").to(device)
    for start in range(0, len(planes), BATCH):
        batch = torch.from_numpy(np.stack(list(planes[start : start + BATCH]))).to(device)
        yield compute_heatmaps(network, batch, architecture=info.architecture).cpu().numpy()
