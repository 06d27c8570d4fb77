"""Copies of one scan as public sets have them: re-encoded, resized, cropped, brightened, flipped, turned."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from brainscale.reading.signature import find_head, hash_thumbnail, make_signature, perceptual_hash

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resize(image: np.ndarray, across: float, down: float) -> np.ndarray:
    height, width = image.shape
    return np.asarray(
        Image.fromarray(image).resize((round(width * across), round(height * down)), Image.Resampling.BICUBIC)
    )


def add_margin(image: np.ndarray, draw: np.random.Generator, most: float, grey: int | None = None) -> np.ndarray:
    """Up to so much of a side on each edge, in the colour of the border."""
    height, width = image.shape
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    top, bottom = (round(share * height) for share in draw.uniform(0, most, 2))
    left, right = (round(share * width) for share in draw.uniform(0, most, 2))
    value = int(np.median(border)) if grey is None else grey
    return np.pad(image, ((top, bottom), (left, right)), constant_values=value)


def crop_margin(image: np.ndarray, draw: np.random.Generator, into_head: float = 0) -> np.ndarray:
    """Some of the margin on each edge, or up to so much of the head."""
    height, width = image.shape
    left, top, right, bottom = find_head(image)

    def cut(margin: float, head: float) -> int:
        share = draw.uniform(-into_head, 1)
        return int((1 - share) * margin if share >= 0 else margin - share * head)

    across, down = right - left, bottom - top
    x, y = (cut(left, across), cut(width - right, across)), (cut(top, down), cut(height - bottom, down))
    return image[y[0] : height - y[1], x[0] : width - x[1]]


def brighten(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    gain, gamma, offset = draw.uniform(0.7, 1.3), draw.uniform(0.75, 1.35), draw.uniform(-20, 20)
    changed = 255 * gain * (image / 255) ** gamma + offset * (image > 0)
    return np.asarray(np.clip(np.rint(changed), 0, 255), np.uint8)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    rotated = Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=int(image[0, 0]))
    return np.asarray(rotated)


def turn(image: np.ndarray, quarters: int, flip: bool) -> np.ndarray:
    turned = np.rot90(image, quarters)
    return np.ascontiguousarray(turned[:, ::-1] if flip else turned)


def _combine(image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    cropped = crop_margin(rotate(image, draw.uniform(-2, 2)), draw)
    return jpeg(resize(brighten(cropped, draw), *[draw.uniform(0.6, 1.4)] * 2), 60)


COPIES: dict[str, Change] = {
    "JPEG, quality 70": lambda image, draw: jpeg(image, 70),
    "JPEG, quality 30": lambda image, draw: jpeg(image, 30),
    "half the size": lambda image, draw: resize(image, 0.5, 0.5),
    "twice the size": lambda image, draw: resize(image, 2, 2),
    "another aspect, up to 15 %": lambda image, draw: resize(image, 1, draw.uniform(0.85, 1.15)),
    "margin added, up to 30 %": lambda image, draw: add_margin(image, draw, 0.3),
    "white margin added": lambda image, draw: add_margin(image, draw, 0.15, 255),
    "margin cropped": crop_margin,
    "cropped up to 6 % into the head": lambda image, draw: crop_margin(image, draw, 0.06),
    "brightness, contrast and gamma": brighten,
    "flipped": lambda image, draw: turn(image, 0, flip=True),
    "quarter turns, half of them flipped": lambda image, draw: turn(image, draw.integers(1, 4), bool(draw.integers(2))),
    "rotated by 2°": lambda image, draw: rotate(image, 2 * draw.choice([-1, 1])),
    "cropped, rotated, brightened, resized, JPEG": _combine,
    "the same, and turned": lambda image, draw: turn(_combine(image, draw), draw.integers(4), bool(draw.integers(2))),
}


def recognisable(image: np.ndarray) -> dict[str, str | bytes | None]:
    """The columns of a manifest by which an image is recognised."""
    signature = make_signature(image)
    if signature is None:
        return {"phash": None, "head_phash": None, "signature": None}
    return {
        "phash": perceptual_hash(image),
        "head_phash": hash_thumbnail(signature),
        "signature": signature.tobytes(),
    }
