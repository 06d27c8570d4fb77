"""NIfTI-1 and NIfTI-2 in one file, their headers read through nibabel: bytes → the slices of every volume.

A header is taken as other readers take it where it contradicts itself: an sform or qform without directions gives
way to the next best, and voxels never begin inside the header.
"""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from typing import Any

import nibabel as nib
import numpy as np

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.frame import NO_WINDOWS, Frame, Windows
from brainscale.reading.formats.volume import Volumes, cut_slices, has_directions

BEHIND_HEADER = 4  # bytes that say whether extensions follow
AS_STORED = np.diag([-1.0, 1.0, 1.0, 1.0])
"""Affine of a file that states none: the axes as stored, the patient's left first."""


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
        SampleError: `too_many_pixels`, `too_many_frames`, `empty_image`, `truncated`, `unsupported_format` or
            `corrupt`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield from cut_slices(_volumes(data), limits, percentiles, slices, windows)
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged header can fail anywhere; our text must not quote it)
        raise SampleError("corrupt", f"the NIfTI volume cannot be read ({type(error).__name__})") from None


def _volumes(data: bytes) -> Volumes:
    kind: Any = nib.Nifti1Header if data[344:348] == b"n+1\0" else nib.Nifti2Header
    nbytes = kind.template_dtype.itemsize
    header = kind(data[:nbytes], check=False)
    dtype = header.get_data_dtype()
    if not dtype.itemsize:
        raise SampleError("unsupported_format", "a NIfTI volume of single bits")
    slope, intercept, offset = (float(header[name]) for name in ("scl_slope", "scl_inter", "vox_offset"))
    if dtype.names or not isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    affine = _affine(header)
    return Volumes(
        data=data,
        offset=int(offset) if isfinite(offset) and offset >= nbytes else nbytes + BEHIND_HEADER,
        shape=tuple(int(side) for side in header.get_data_shape()),
        dtype=dtype,
        affine=AS_STORED if affine is None else affine,
        format="NIfTI",
        slope=slope,
        intercept=intercept if isfinite(intercept) else 0.0,
        has_axes=affine is not None,
    )


def _affine(header: Any) -> np.ndarray | None:
    """Return the first that has directions: sform or qform; None if neither has."""
    for affine_of in (header.get_sform, header.get_qform):
        with suppress(ValueError, ArithmeticError, nib.spatialimages.HeaderDataError, np.linalg.LinAlgError):
            affine, code = affine_of(coded=True)
            if code and has_directions(affine):
                return np.asarray(affine)
    return None
