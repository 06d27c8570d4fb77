"""Pictures of what in a scan spoke for a tumour; what moved the network need not be the tumour.

Exact class activation maps (Zhou et al., CVPR 2016) where a network averages its last feature map over space and
a linear layer decides between two classes; Grad-CAM (Selvaraju et al., ICCV 2017) elsewhere, but HiResCAM (Draelos
and Carin 2020) for the two that read a hypercolumn: it gives every channel one weight, so that a mean of gradients
over space would show where features are large and not what they say.
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
from brainscale.models.bundle import Bundle, ModelInfo
from brainscale.models.classifier import load_classifier
from brainscale.models.normalisation import normalise
from brainscale.models.registry import NETWORKS
from brainscale.models.resize import average_matrix, bilinear_matrix, resample
from brainscale.storage.local import output_folder, replacing
from brainscale.storage.tables import write_table

BATCH, COLOURS, OPACITY = 8, "viridis", 0.6  # seen by the colour-blind too, and without the white of bright tissue
COLUMNS = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # beside the table: the scan, and the scan under its map
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("probability", pa.float32()),  # of a tumour: 1 − P(first class)
        pa.field("method", pa.string(), nullable=False),  # cam, hirescam or grad-cam
    ]
)


def activation(network: nn.Module, planes: Tensor, target: int | None = None, *, architecture: str) -> Tensor:
    """Where the evidence for a tumour, or for one class, lies.

    Args:
        network: in evaluation mode; normalised [N, 3, S, S] → logits [N, classes]. Nothing of it changes.
        planes: uint8 [N, S, S], on the network's device.
        target: index of a class; without one, a tumour, which is every class but the first.
        architecture: the network's name in the registry.

    Returns:
        float32 [N, S, S] in 0..1: each image's maximum is 1, or all is 0 where nothing speaks for it.

    Raises:
        ValueError: the network is in training mode, in which it changes as it runs.
    """
    if any(module.training for module in network.modules()):
        raise ValueError("the network is in training mode: call its eval() first")
    maps = evidence(network, planes, target, architecture=architecture).clamp(min=0)
    maps = resample(maps, *(bilinear_matrix(maps.shape[axis], planes.shape[axis]) for axis in (1, 2)))
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def evidence(network: nn.Module, planes: Tensor, target: int | None = None, *, architecture: str) -> Tensor:
    """The signed map behind `activation`, float32 [N, h, w], of the same arguments.

    Of an exact one, the mean over space and the difference of the two biases add up to `log_odds`.
    """
    network_record = NETWORKS[architecture]
    averaged = network_record.cam_method == "cam"
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append((output.relu() if averaged else output).requires_grad_())
        torch.set_grad_enabled(True)  # only now, since a graph of the layers before would be memory for nothing
        return seen[0].clone()  # what follows may work in place

    with torch.no_grad(), network.get_submodule(network_record.cam_layer).register_forward_hook(keep):
        logits = network(normalise(planes))
        score = log_odds(logits, target).sum()
    if averaged:  # the gradient without its last step, which a ReLU would set to 0 at a map's zeros
        weights = torch.autograd.grad(score, logits)[0] @ network.get_parameter(network_record.head + "weight").detach()
    else:
        gradient = torch.autograd.grad(score, seen)[0]
        if network_record.cam_method == "hirescam":  # cell by cell of the 4 × 4 that the head sees
            places = (gradient * seen[0].detach()).sum(1)
            return resample(places, *(average_matrix(length, HYPERCOLUMN_SIDE) for length in places.shape[1:]))
        weights = gradient.mean((2, 3))
    return torch.einsum("nc,nchw->nhw", weights, seen[0].detach())


def heatmap_method(architecture: str, classes: int) -> str:
    """`cam` where there is an exact map, `hirescam` of a hypercolumn, else `grad-cam`."""
    cam_method = NETWORKS[architecture].cam_method
    return "grad-cam" if cam_method == "cam" and classes > 2 else cam_method


def log_odds(logits: Tensor, target: int | None = None) -> Tensor:
    """What a map explains, [N, classes] → [N]: log P / (1 − P) of a tumour, or of the class `target`."""
    own = target or 0
    others = torch.cat([logits[:, :own], logits[:, own + 1 :]], 1).logsumexp(1)
    return others - logits[:, own] if target is None else logits[:, own] - others


def overlay(plane: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """A scan under its map: uint8 [S, S] and float [S, S] in 0..1 → RGB uint8 [S, S, 3]."""
    opacity = OPACITY * activation[..., None]
    colours = 255 * colormaps[COLOURS](activation)[..., :3]
    return np.asarray(np.rint((1 - opacity) * plane[..., None] + opacity * colours), np.uint8)


def write_heatmaps(
    bundle: Bundle, planes: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], folder: Path, device: str = "cpu"
) -> pa.Table:
    """Write a PNG for each row, the scan beside the scan under its map, and then heatmaps.parquet, which is returned.

    Args:
        bundle: the model that scored them.
        planes: uint8 [S, S], one for each row.
        rows: with sample_id and probability; their order numbers the files.
        folder: made if it is not there.
        device: of the network.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    folder, architecture, classes = output_folder(folder), bundle.info.architecture, len(bundle.info.classes)
    marks = [hashlib.sha256(row["sample_id"].encode()).hexdigest()[:12] for row in rows]  # ids may name a patient
    own = [
        {"file": f"{i:03d}-{mark}.png", "method": heatmap_method(architecture, classes)}
        for i, mark in enumerate(marks, 1)
    ]
    table = pa.Table.from_pylist([{**row, **more} for row, more in zip(rows, own, strict=True)], schema=COLUMNS)
    for more, picture in zip(own, pictures(bundle, planes, device), strict=True):
        with replacing(folder / more["file"]) as aside:
            aside.write_bytes(picture)
    write_table(table, folder / "heatmaps.parquet", "heatmaps")
    return table


def pictures(bundle: Bundle, planes: Sequence[np.ndarray], device: str = "cpu") -> Iterator[bytes]:
    """Yield a PNG for each plane, uint8 [S, S]: the scan beside the scan under its heatmap."""
    maps = heatmap_batches(bundle.info, bundle.weights.read_bytes(), planes, device)
    for plane, heatmap in zip(planes, (heatmap for batch in maps for heatmap in batch), strict=True):
        picture = io.BytesIO()
        Image.fromarray(np.hstack([np.stack([plane] * 3, 2), overlay(plane, heatmap)])).save(picture, format="PNG")
        yield picture.getvalue()


def heatmap_batches(
    info: ModelInfo, weights: bytes, planes: Sequence[np.ndarray] | np.ndarray, device: str = "cpu"
) -> Iterator[np.ndarray]:
    """Yield heatmaps of a tumour, float32 [N, S, S] in 0..1, for some planes at a time.

    Args:
        info: of the model.
        weights: its safetensors file.
        planes: uint8 [S, S] each.
        device: where the network runs.
    """
    classifier = load_classifier(info.architecture, len(info.classes), weights)
    network = classifier.get_submodule("network").to(device)
    for start in range(0, len(planes), BATCH):
        batch = torch.from_numpy(np.stack(list(planes[start : start + BATCH]))).to(device)
        yield activation(network, batch, architecture=info.architecture).cpu().numpy()
