"""Voxels in a file → the slices of every volume, whichever header describes them.

Volumes are turned to the closest canonical orientation (RAS+), scaled as the header says, and cut along one
plane. A slice lies as a radiologist sees it: the patient's right on the left (sagittal: the face on the left),
anterior (axial) or superior on top. The fourth and further dimensions count volumes; frames are numbered volume
by volume. Each volume has one grey range.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, io_orientation

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.acquisition import Acquisition, name_orientation
from brainscale.reading.formats.frame import NO_WINDOWS, Frame, Windows
from brainscale.reading.histogram import count_values
from brainscale.reading.series import BACKGROUND, bright_rank

AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}  # of a volume in RAS+


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """Where and how a file holds its voxels.

    Attributes:
        data: the file's bytes.
        offset: where the voxels begin, bytes.
        shape: three dimensions of space and more that count volumes, the first one fastest.
        dtype: of a voxel as stored.
        affine: 4 × 4, voxel indices → mm to the right, anterior and superior; only its directions matter.
        format: name of the file format.
        slope: by which a stored value is multiplied.
        intercept: what is added then.
        has_axes: whether the file states the affine, or it is what readers assume.
    """

    data: bytes = field(repr=False)
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: np.ndarray
    format: str
    slope: float = 1.0
    intercept: float = 0.0
    has_axes: bool = True


def has_directions(affine: np.ndarray) -> bool:
    """Tell whether an affine gives each axis a direction of its own: finite, not zero, not in one plane."""
    columns = np.asarray(affine, np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(columns).all() or not lengths.min() > 0:
        return False
    return bool(abs(np.linalg.det(columns / lengths)) > 1e-6)


def cut_slices(
    volumes: Volumes, limits: LimitsConfig, percentiles: tuple[float, float], slices: str, windows: Windows = NO_WINDOWS
) -> Iterator[Frame]:
    """Cut every volume into slices.

    Args:
        volumes: the voxels.
        limits: larger volumes are refused before decoding.
        percentiles: of a volume, become 0 and 255.
        slices: axial, coronal or sagittal.
        windows: number of a slice → its window, where that is known from an earlier reading.

    Raises:
        SampleError: `too_many_pixels`, `too_many_frames`, `empty_image` or `truncated`.
    """
    axis = AXIS[slices]
    _check(volumes, limits, axis)
    acquisition, number = Acquisition(orientation=_orientation(volumes, axis)), 0
    for volume in _each_volume(volumes):
        numbers = range(number, number + volume.shape[axis])
        known = next((windows[i] for i in numbers if i in windows), None)
        low, high = known or count_values(volume).percentiles(percentiles)
        for position in range(volume.shape[axis]):
            # The two axes that stay are in the order R, A, S; the second becomes the rows, both reversed.
            # A view first: `np.take` would copy the whole volume for each slice that does not lie in one piece.
            view = volume[(slice(None),) * axis + (position,)]
            pixels = np.ascontiguousarray(view[::-1, ::-1].T)
            height, width = pixels.shape
            bright = np.count_nonzero(pixels > low + BACKGROUND * (high - low))
            yield Frame(
                pixels=pixels,
                format=volumes.format,
                mode=str(volumes.dtype.newbyteorder("=")),
                width=width,
                height=height,
                number=number,
                grey_range=(low, high),
                empty=bool(bright < bright_rank(pixels.size)),
                position=number,
                alone=volume.shape[axis] == 1,
                acquisition=acquisition,
            )
            number += 1


def _orientation(volumes: Volumes, axis: int) -> str | None:
    """Return how the slices across an axis of RAS+ lie; None where the file states no axes."""
    if not volumes.has_axes:
        return None
    of_slice = io_orientation(volumes.affine)[:, 0] != axis
    row, column = np.asarray(volumes.affine, np.float64)[:3, :3].T[of_slice]
    return name_orientation(row, column)


def _check(volumes: Volumes, limits: LimitsConfig, axis: int) -> None:
    shape = volumes.shape
    if not shape or min(shape) < 1:
        raise SampleError("empty_image", f"a volume of {' × '.join(map(str, shape))} voxels")
    voxels, nbytes = prod(shape), len(volumes.data) - volumes.offset
    if voxels > limits.voxels:
        raise SampleError("too_many_pixels", f"{voxels} voxels exceed limits.voxels = {limits.voxels}")
    if voxels * volumes.dtype.itemsize > nbytes:
        raise SampleError(
            "truncated", f"{max(0, nbytes)} bytes are too few for the {voxels} voxels that the header declares"
        )
    volume_shape = (*shape, 1, 1, 1)[:3]
    # Turning to RAS+ exchanges axes: any of the three may become the one that is cut.
    orientation = io_orientation(volumes.affine)
    slices = volume_shape[int(np.argwhere(orientation[:, 0] == axis)[0, 0])]
    frames, pixels = voxels // prod(volume_shape) * slices, prod(volume_shape) // slices
    if frames > limits.frames:
        raise SampleError("too_many_frames", f"{frames} slices exceed limits.frames = {limits.frames}")
    if pixels > limits.pixels:
        raise SampleError("too_many_pixels", f"slices of {pixels} pixels exceed limits.pixels = {limits.pixels}")


def _each_volume(volumes: Volumes) -> Iterator[np.ndarray]:
    """Yield each volume, real, [R, A, S]."""
    orientation = io_orientation(volumes.affine)
    spec = (volumes.shape, volumes.dtype, volumes.offset, volumes.slope, volumes.intercept)
    proxy = ArrayProxy(BytesIO(volumes.data), spec, mmap=False)
    space = (*volumes.shape, 1, 1, 1)[:3]
    for index in np.ndindex(volumes.shape[3:]):
        stored = np.asanyarray(proxy[(..., *index)] if index else proxy)
        yield apply_orientation(_to_real(stored).reshape(space), orientation)


def _to_real(values: np.ndarray) -> np.ndarray:
    """Turn colour into luminance and complex numbers into magnitude; leave all else as it is."""
    if values.dtype.names:
        red, green, blue = (values[name].astype(np.float32) for name in "RGB")
        return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue)
    return np.abs(values) if np.iscomplexobj(values) else values
