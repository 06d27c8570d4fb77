"""A set of four classes in the layout of public sets: phantoms without a lesion, and with one of three kinds."""

from pathlib import Path

import numpy as np
from PIL import Image

from brainscale.dataset.phantoms import draw_phantom

FOLDERS = ("notumor", "glioma_tumor", "meningioma_tumor", "pituitary_tumor")
"""Names of the folders, in the order of the classes of configs/four_classes.yaml."""


def draw_kind(seed: int, index: int, kind: int, size: int = 80) -> np.ndarray:
    """A phantom, uint8 [size, size]: 0 without a lesion; 1 a large disc, 2 a small disc elsewhere, 3 a bar."""
    plane = draw_phantom(seed, index, tumour=False, size=size)
    y, x = np.mgrid[:size, :size] / size
    shift = np.random.default_rng([seed, index]).uniform(-0.04, 0.04, 2)
    y, x = y - shift[0], x - shift[1]
    lesions = (
        np.zeros_like(x, bool),
        np.hypot(x - 0.35, y - 0.4) < 0.13,
        np.hypot(x - 0.66, y - 0.6) < 0.07,
        (np.abs(x - 0.5) < 0.12) & (np.abs(y - 0.75) < 0.04),
    )
    return np.where(lesions[kind], 255, plane).astype(np.uint8)


def write_four_classes(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` phantoms of each class below Training, and every fourth below Testing."""
    for index in range(count):
        for kind, name in enumerate(FOLDERS):
            place = folder / ("Testing" if index % 4 == 3 else "Training") / name
            place.mkdir(parents=True, exist_ok=True)
            plane = draw_kind(seed, 4 * index + kind, kind)
            Image.fromarray(plane).save(place / f"{index:03d}.png")
