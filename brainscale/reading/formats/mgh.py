"""FreeSurfer's MGH, also compressed as MGZ: bytes → the slices of every volume."""

from collections.abc import Iterator
from struct import unpack_from

import numpy as np

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.frame import NO_WINDOWS, Frame, Windows
from brainscale.reading.formats.recognition import MGH_HEADER_NBYTES
from brainscale.reading.formats.volume import Volumes, cut_slices, has_directions

TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
CORONAL = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # where the file states no directions


def decode(
    data: bytes, limits: LimitsConfig, percentiles: tuple[float, float], slices: str, windows: Windows = NO_WINDOWS
) -> Iterator[Frame]:
    """Cut every volume of a file into slices.

    Args:
        data: the file's bytes, no longer compressed.
        limits: larger volumes are refused before decoding.
        percentiles: of a volume, become 0 and 255.
        slices: axial, coronal or sagittal.
        windows: number of a slice → its window, where that is known from an earlier reading.

    Raises:
        SampleError: `too_many_pixels`, `too_many_frames`, `truncated` or `unsupported_format`.
    """
    _, *shape, kind, _ = unpack_from(">7i", data)
    if kind not in TYPES:
        raise SampleError("unsupported_format", f"an MGH volume of type {kind}")
    (has_geometry,) = unpack_from(">h", data, 28)
    numbers = np.frombuffer(data, ">f4", 12, 30).astype(np.float64)
    affine = np.eye(4)
    affine[:3, :3] = numbers[3:].reshape(3, 3).T * numbers[:3]
    has_axes = has_geometry >= 1 and has_directions(affine)
    if not has_axes:
        affine[:3, :3] = CORONAL
    volumes = Volumes(
        data=data,
        offset=MGH_HEADER_NBYTES,
        shape=tuple(shape[:3]) if shape[3] == 1 else tuple(shape),
        dtype=np.dtype(TYPES[kind]),
        affine=affine,
        format="MGH",
        has_axes=has_axes,
    )
    with np.errstate(all="ignore"):
        yield from cut_slices(volumes, limits, percentiles, slices, windows)
