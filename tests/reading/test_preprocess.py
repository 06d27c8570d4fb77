"""Grey frames become planes: the range of intensities, the resize and the centre crop."""

import numpy as np
from PIL import Image

from brainscale.config.sections import PreprocessConfig
from brainscale.reading.preprocess import make_plane, to_uint8
from tests.support.files import GREY


def test_the_range_ignores_outliers_and_values_that_are_not_finite() -> None:
    values = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    values[0, 0], values[0, 1], values[0, 2] = 1e9, np.nan, -np.inf
    grey = to_uint8(values, (0.5, 99.5))
    assert grey[0, 0] == 255
    assert grey[0, 1] == grey[0, 2] == 0
    assert 120 < grey[50, 50] < 136


def test_a_frame_without_contrast_is_black() -> None:
    assert to_uint8(np.full((3, 3), 7, np.int32), (0.5, 99.5)).max() == 0
    assert to_uint8(np.full((3, 3), np.nan, np.float32), (0.5, 99.5)).max() == 0


def test_the_plane_is_the_centre_of_pillows_resize() -> None:
    resized = Image.fromarray(GREY).resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    before = GREY.copy()
    plane = make_plane(GREY, PreprocessConfig(image_size=224))
    assert np.abs(plane.astype(int) - np.asarray(resized)).max() <= 2
    assert np.array_equal(GREY, before)


def test_a_plane_without_crop_is_pillows_resize() -> None:
    resized = Image.fromarray(GREY).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(make_plane(GREY, PreprocessConfig(image_size=64, crop=1.0)), np.asarray(resized))
