"""Grey frames become planes: the range of intensities, the resize and the centre crop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading.formats.frame import Frame, percentile_range
from brainscale.reading.preprocess import make_plane, to_grey, to_uint8
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


def head_in_black(height: int, width: int) -> np.ndarray:
    """A bright ellipse that fills the rows 40 to 100 and the columns 30 to 60 of a black image."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - 70) / 30) ** 2 + ((columns - 45) / 15) ** 2 <= 1
    return np.where(inside, 200, 0).astype(np.uint8)


def extent(plane: np.ndarray) -> tuple[int, int]:
    """Height and width of what is bright."""
    rows, columns = np.nonzero(plane > 100)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("squash", (64 * 60 / 160, 64 * 30 / 120)),
        ("pad", (64 * 60 / 160, 64 * 30 / 160)),
        ("head", (64, 64)),
        ("head_pad", (64, 32)),
    ],
)
def test_an_image_fits_the_plane_in_four_ways(fit: str, expected: tuple[float, float]) -> None:
    spec = PreprocessConfig.model_validate({"image_size": 64, "crop": 1.0, "fit": fit})
    plane = make_plane(head_in_black(160, 120), spec)
    assert plane.shape == (64, 64)
    assert plane.dtype == np.uint8
    assert np.abs(np.subtract(extent(plane), expected)).max() <= 4


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(["squash", "pad", "head", "head_pad"]),
    st.sampled_from([0.2, 0.875, 1.0]),
)
def test_any_image_gives_a_plane(height: int, width: int, fit: str, crop: float) -> None:
    grey = np.random.default_rng(height * width).integers(0, 256, (height, width), np.uint8)
    spec = PreprocessConfig.model_validate({"image_size": 64, "crop": crop, "fit": fit})
    assert make_plane(grey, spec).shape == (64, 64)


INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.dtype(">i2"), np.dtype(">u2")]
percentages = st.floats(0, 100, allow_nan=False)


@given(st.data(), st.sampled_from(INTEGERS), st.tuples(percentages, percentages))
def test_percentiles_by_histogram_are_numpys_to_the_bit(
    data: st.DataObject, dtype: type, percentiles: tuple[float, float]
) -> None:
    values = data.draw(arrays.arrays(dtype, st.integers(1, 300)))
    assert percentile_range(values, percentiles) == tuple(np.percentile(values.astype(np.float64), percentiles))
    rescaled = percentile_range(values, percentiles, lambda stored: stored * np.float64(0.3) - 1024)
    assert rescaled == tuple(np.percentile(values * np.float64(0.3) - 1024, percentiles))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_type_are_scaled_alike(dtype: type) -> None:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max + 1, (300, 300)).astype(dtype)
    low, high = limits.min / 3, limits.max / 1.7
    scaled = (values.astype(np.float32) - low) * (255.0 / (high - low))
    expected = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    assert np.array_equal(to_uint8(values, (0, 100), (low, high)), expected)
    assert np.array_equal(to_uint8(values[:2, :9], (0, 100), (low, high)), expected[:2, :9])


def frame_of(pixels: np.ndarray, **fields: object) -> Frame:
    return Frame(pixels=pixels, format="X", mode="X", width=pixels.shape[1], height=pixels.shape[0], **fields)


@pytest.mark.parametrize("inverted", [False, True])
def test_what_is_not_shown_is_black_and_counts_for_no_percentile(inverted: bool) -> None:
    pixels = np.arange(200, dtype=np.int16).reshape(10, 20) + 1000
    opacity = np.full(pixels.shape, 255, np.uint8)
    pixels[:3], opacity[:3] = -32768, 0
    shown = to_grey(frame_of(pixels[3:], inverted=inverted), (0, 100))
    grey = to_grey(frame_of(pixels, inverted=inverted, opacity=opacity), (0, 100))
    assert grey[:3].max() == 0
    assert np.array_equal(grey[3:], shown)
    half = to_grey(frame_of(pixels, inverted=inverted, opacity=opacity // 2), (0, 100))
    assert np.abs(half[3:] - shown / 2).max() <= 1
    assert to_grey(frame_of(pixels, opacity=opacity * 0), (0, 100)).max() == 0


def test_values_that_are_not_finite_are_black_even_where_low_is_bright() -> None:
    pixels = np.array([[0.0, 1.0, np.nan, np.inf]])
    assert to_grey(frame_of(pixels, inverted=True), (0, 100)).tolist() == [[255, 0, 0, 0]]
