"""Samples of more than 8 bits, [H, W, samples] → grey intensities, as a person would see them."""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a picture by its EXIF or TIFF orientation, which says where the first row and the first column are shown.

    Args:
        samples: [H, W, …].
        orientation: 1 to 8; anything else counts as 1.
    """
    if 5 <= orientation <= 8:  # the first row is a column
        samples = samples.swapaxes(0, 1)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(samples[::down, ::across])


def luminance(samples: np.ndarray) -> np.ndarray:
    """Return the intensities of grey samples as they are, and the luminance of RGB or CMYK (unsigned), [H, W]."""
    if samples.shape[-1] == 1:
        return samples[..., 0].astype(samples.dtype.newbyteorder("="), copy=False)
    floats = samples.astype(np.float64)
    if samples.shape[-1] == 4:
        highest = float(np.iinfo(samples.dtype).max)
        floats = (highest - floats[..., :3]) * (1 - floats[..., 3:] / highest)
    return np.asarray(floats @ LUMA)


def opacity_of(alpha: np.ndarray, multiplied: bool = False) -> np.ndarray | None:
    """Return what alpha shows of each pixel, uint8; None where it shows all.

    Args:
        alpha: [H, W], 0 to the highest value of its type, or to 1.
        multiplied: whether the colours are multiplied by it already.
    """
    highest = 1.0 if alpha.dtype.kind == "f" else float(np.iinfo(alpha.dtype).max)
    shares = np.clip(np.nan_to_num(alpha.astype(np.float64)) / highest, 0, 1)
    opacity = np.rint(255.0 * (shares > 0 if multiplied else shares)).astype(np.uint8)
    return None if opacity.min() == 255 else opacity
