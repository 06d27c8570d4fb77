"""Hashes and signatures of images, and the head that they are made of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from brainscale.dataset.phantoms import draw_phantom
from brainscale.reading.signature import find_head, hash_thumbnail, make_signature, perceptual_hash
from tests.support.copies import COPIES, add_margin, brighten

PHANTOM = draw_phantom(0, 1, tumour=False)


def edges(image: np.ndarray) -> np.ndarray:
    return np.array(find_head(image))


@pytest.mark.parametrize("grey", [0, 12, 90, 255])
def test_the_head_is_found_inside_any_uniform_frame(grey: int) -> None:
    framed = np.pad(PHANTOM, ((30, 10), (20, 50)), constant_values=grey)
    assert np.abs(edges(framed) - edges(PHANTOM) - [20, 30, 20, 30]).max() <= 4  # pixels of 230


def test_text_beside_the_head_does_not_count() -> None:
    labelled = np.pad(PHANTOM, 20)
    labelled[6:14, 6:40:3] = 255
    assert np.abs(edges(labelled) - edges(PHANTOM) - 20).max() <= 3


def test_a_signature_does_not_depend_on_size_margin_or_brightness() -> None:
    signature = make_signature(PHANTOM)
    assert signature is not None
    assert signature.shape == (16, 16)
    draw = np.random.default_rng(0)
    for name in ("half the size", "margin added, up to 30 %", "white margin added", "margin cropped"):
        changed = make_signature(COPIES[name](PHANTOM, draw))
        assert changed is not None
        assert np.abs(changed.astype(int) - signature).mean() < 8, name
    brighter = make_signature(brighten(add_margin(PHANTOM, draw, 0.1), draw))
    assert brighter is not None
    assert np.corrcoef(brighter.ravel(), signature.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    "image", [np.zeros((20, 20), np.uint8), np.full((1, 1), 200, np.uint8), np.tile(np.uint8([[7, 12]]), (9, 9))]
)
def test_an_image_without_contrast_has_neither(image: np.ndarray) -> None:
    assert make_signature(image) is None
    assert perceptual_hash(image) is None


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=70)))
@settings(max_examples=200)
def test_any_image_has_a_box_inside_it(image: np.ndarray) -> None:
    left, top, right, bottom = find_head(image)
    assert 0 <= left < right <= image.shape[1] + 1e-6
    assert 0 <= top < bottom <= image.shape[0] + 1e-6
    signature, digits = make_signature(image), perceptual_hash(image)
    assert (signature is None) == (digits is None) == (np.ptp(image) < 8)
    if signature is not None:
        assert len(hash_thumbnail(signature)) == 16
