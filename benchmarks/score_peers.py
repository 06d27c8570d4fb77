"""What people use today to score a folder, written plainly: python benchmarks/score_peers.py PEER BUNDLE FOLDER OUT.

notebook: the published evaluation loop. compiled: a loop with torch.compile and frozen weights. timm: the way of timm's
inference script; timm-compiled: with its option --torchcompile. ray: Ray's documented example of batch inference. Each
reads the same JPEGs, runs the same weights and writes path and probability as Parquet.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from brainscale.models.registry import build_network

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = transforms.Compose(
    [
        transforms.Resize((256, 256)),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)


class Images(Dataset[tuple[Tensor, int]]):
    """The files of a folder through the published transform."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        return TRANSFORM(Image.open(self.files[at]).convert("RGB")), at


def network(bundle: Path) -> nn.Module:
    loaded = build_network("brainmrnet", 2)
    loaded.load_state_dict(load_file(bundle / "model.safetensors"))
    return loaded.eval()


def write(files: list[Path], probabilities: list[float], out: Path) -> None:
    pq.write_table(pa.table({"path": [file.name for file in files], "probability": probabilities}), out)


def notebook(bundle: Path, folder: Path, out: Path) -> None:
    model, images = network(bundle), Images(folder)
    found: list[float] = []
    with torch.no_grad():
        for batch, _ in DataLoader(images, batch_size=64, num_workers=2):
            found += torch.softmax(model(batch), 1)[:, 1].tolist()
    write(images.files, found, out)


def compiled(bundle: Path, folder: Path, out: Path) -> None:
    """Batches of 16, the last one filled up, so that one shape is compiled."""
    from torch._inductor import config

    config.freezing = True
    images = Images(folder)
    model = torch.compile(network(bundle), dynamic=False)
    found: list[float] = []
    with torch.inference_mode():
        for batch, _ in DataLoader(images, batch_size=16, num_workers=2):
            full = torch.cat([batch, batch.new_zeros(16 - len(batch), *batch.shape[1:])])
            found += torch.softmax(model(full), 1)[: len(batch), 1].tolist()
    write(images.files, found, out)


def timm(bundle: Path, folder: Path, out: Path, *, compiles: bool = False) -> None:
    """Channels last, inference mode, top-k; its default batch of 256 needs 10 GB of activations here, so 64."""
    model, images = network(bundle).to(memory_format=torch.channels_last), Images(folder)
    if compiles:
        model = torch.compile(model)
    tops, places = [], []
    with torch.inference_mode():
        for batch, _ in DataLoader(images, batch_size=64, num_workers=2):
            top, place = torch.softmax(model(batch.contiguous(memory_format=torch.channels_last)), 1).topk(2)
            tops.append(top.numpy())
            places.append(place.numpy())
    chances, classes = np.concatenate(tops), np.concatenate(places)
    write(images.files, chances[np.arange(len(chances)), classes.argmax(1)].tolist(), out)


class Predictor:
    """As in Ray's guide to batch inference."""

    def __init__(self, bundle: Path) -> None:
        torch.set_num_threads(2)
        self.model = network(bundle)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Float32 [N, 3, 224, 224] in `image` → probabilities."""
        with torch.inference_mode():
            chances = torch.softmax(self.model(torch.from_numpy(batch["image"])), 1)
        return {"path": batch["path"], "probability": chances[:, 1].numpy()}


def preprocess(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    images = batch["image"].astype(np.float32) / 255
    normal = (images[:, 16:240, 16:240] - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return {"path": batch["path"], "image": np.ascontiguousarray(normal.transpose(0, 3, 1, 2))}


def ray(bundle: Path, folder: Path, out: Path) -> None:
    import ray as framework

    framework.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    images = framework.data.read_images(str(folder), mode="RGB", size=(256, 256), include_paths=True)
    scored = images.map_batches(preprocess, batch_size=64).map_batches(
        Predictor,
        fn_constructor_args=(bundle,),
        compute=framework.data.ActorPoolStrategy(size=1),
        batch_size=64,
        num_cpus=1,
    )
    scored.write_parquet(str(out))


PEERS: dict[str, Callable[[Path, Path, Path], None]] = {
    "notebook": notebook,
    "compiled": compiled,
    "timm": timm,
    "timm-compiled": partial(timm, compiles=True),
    "ray": ray,
}


def rows(out: Path) -> Iterator[tuple[str, float]]:
    """File name and probability of what a peer, or brainscale, wrote."""
    table = pq.read_table(out)
    names = table["sample_id" if "sample_id" in table.column_names else "path"].to_pylist()
    return ((Path(n).name, p) for n, p in zip(names, table["probability"].to_pylist(), strict=True))


if __name__ == "__main__":
    PEERS[sys.argv[1]](*map(Path, sys.argv[2:]))
