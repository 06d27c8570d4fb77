"""NIfTI-1 and NIfTI-2 in one file, through nibabel: bytes → the slices of every volume.

Volumes are turned to the closest canonical orientation (RAS+), scaled as the header says, and cut along one
plane. A slice lies as a radiologist sees it: the patient's right on the left (sagittal: the face on the left),
anterior (axial) or superior on top. The fourth and further dimensions count volumes; frames are numbered volume
by volume. Each volume has one grey range.
"""

import warnings
from collections.abc import Iterator
from math import prod

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.frame import Frame, percentile_range

AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}  # of a volume in RAS+
BACKGROUND = 0.05  # share of the grey range: what is brighter is more than background
EMPTY_SHARE = 0.01  # a slice is empty if less of its area is brighter than background


def recognises(head: bytes) -> bool:
    """Tell whether a file that begins with these bytes (352) is NIfTI with its image in the same file."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def is_header_only(head: bytes) -> bool:
    """Tell whether this is a NIfTI header whose image is in another file (.hdr and .img)."""
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def decode(data: bytes, limits: LimitsConfig, percentiles: tuple[float, float], slices: str) -> Iterator[Frame]:
    """Cut every volume of a file into slices.

    Args:
        data: the file's bytes, no longer compressed.
        limits: larger volumes are refused before decoding.
        percentiles: of a volume, become 0 and 255.
        slices: axial, coronal or sagittal.

    Raises:
        SampleError: `too_many_pixels`, `too_many_frames`, `empty_image`, `truncated` or `corrupt`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            image_class = nib.Nifti1Image if data[344:348] == b"n+1\0" else nib.Nifti2Image
            image = image_class.from_bytes(data)
            _check(image, len(data) - getattr(image.dataobj, "offset", 0), limits, AXIS[slices])
            yield from _slices(image, percentiles, AXIS[slices])
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged header can fail anywhere; our text must not quote it)
        raise SampleError("corrupt", f"the NIfTI volume cannot be read ({type(error).__name__})") from None


def _check(image: nib.Nifti1Image, nbytes: int, limits: LimitsConfig, axis: int) -> None:
    shape, header = image.shape, image.header
    if not shape or min(shape) < 1:
        raise SampleError("empty_image", f"a volume of {' × '.join(map(str, shape))} voxels")
    voxels = prod(shape)
    if voxels > limits.voxels:
        raise SampleError("too_many_pixels", f"{voxels} voxels exceed limits.voxels = {limits.voxels}")
    if voxels * header.get_data_dtype().itemsize > nbytes:
        raise SampleError(
            "truncated", f"{max(0, nbytes)} bytes are too few for the {voxels} voxels that the header declares"
        )
    volume_shape = (*shape, 1, 1, 1)[:3]
    # Turning to RAS+ exchanges axes: any of the three may become the one that is cut.
    orientation = io_orientation(image.affine)
    slices = volume_shape[int(np.argwhere(orientation[:, 0] == axis)[0, 0])]
    frames, pixels = voxels // prod(volume_shape) * slices, prod(volume_shape) // slices
    if frames > limits.frames:
        raise SampleError("too_many_frames", f"{frames} slices exceed limits.frames = {limits.frames}")
    if pixels > limits.pixels:
        raise SampleError("too_many_pixels", f"slices of {pixels} pixels exceed limits.pixels = {limits.pixels}")


def _slices(image: nib.Nifti1Image, percentiles: tuple[float, float], axis: int) -> Iterator[Frame]:
    mode = str(image.get_data_dtype())
    number = 0
    for volume in _volumes(image):
        low, high = percentile_range(volume, percentiles)
        for position in range(volume.shape[axis]):
            # The two axes that stay are in the order R, A, S; the second becomes the rows, both reversed.
            pixels = np.take(volume, position, axis=axis)[::-1, ::-1].T
            height, width = pixels.shape
            empty = bool(np.mean(pixels > low + BACKGROUND * (high - low)) < EMPTY_SHARE)
            yield Frame(
                pixels=pixels,
                format="NIfTI",
                mode=mode,
                width=width,
                height=height,
                number=number,
                grey_range=(low, high),
                empty=empty,
            )
            number += 1


def _volumes(image: nib.Nifti1Image) -> Iterator[np.ndarray]:
    """Yield each volume, real, [R, A, S]."""
    orientation = io_orientation(image.affine)
    shape = (*image.shape, 1, 1, 1)[:3]
    for index in np.ndindex(image.shape[3:]):
        stored = np.asanyarray(image.dataobj[(..., *index)] if index else image.dataobj)
        yield apply_orientation(_to_real(stored).reshape(shape), orientation)


def _to_real(values: np.ndarray) -> np.ndarray:
    """Turn colour into luminance and complex numbers into magnitude; leave all else as it is."""
    if values.dtype.names:
        red, green, blue = (values[name].astype(np.float32) for name in "RGB")
        return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue)
    return np.abs(values) if np.iscomplexobj(values) else values
