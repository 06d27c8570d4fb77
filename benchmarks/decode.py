"""Images a second from encoded bytes to what a network takes: ours against the published notebook's transform.

python benchmarks/decode.py [FOLDER]      one core, the same files, both in turns; phantoms as JPEG if no folder
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from brainscale.config import PreprocessConfig
from brainscale.formats import raster
from brainscale.phantoms import draw
from brainscale.preprocess import plane, resized_side

ROUNDS = 5
SPEC = PreprocessConfig()
NOTEBOOK = transforms.Compose(
    [
        transforms.Resize((256, 256)),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


def ours(data: bytes) -> object:
    return plane(raster.decode(data, 10**8, enough=2 * resized_side(SPEC)).pixels, SPEC)


def notebook(data: bytes) -> object:
    return NOTEBOOK(Image.open(io.BytesIO(data)).convert("RGB"))


def seconds(function: Callable[[bytes], object], files: list[bytes]) -> float:
    start = time.perf_counter()
    for data in files:
        function(data)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made)
        if len(sys.argv) == 1:
            for i in range(60):
                large = Image.fromarray(draw(0, i, bool(i % 2))).resize((512, 512))
                large.convert("RGB").save(folder / f"{i}.jpg", quality=90)
        files = [p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()]
    times = {function: [] for function in (ours, notebook)}
    for _ in range(ROUNDS):
        for function, taken in times.items():
            taken.append(seconds(function, files))
    rates = {function.__name__: len(files) / np.median(taken) for function, taken in times.items()}
    for name, rate in rates.items():
        print(f"{name:<10}{rate:8.0f} images/s")
    print(f"ratio     {rates['ours'] / rates['notebook']:8.2f}")


if __name__ == "__main__":
    main()
