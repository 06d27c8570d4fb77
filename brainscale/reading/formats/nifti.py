"""NIfTI-1 and NIfTI-2 in one file, through nibabel: bytes → the slices of every volume.

Volumes are turned to the closest canonical orientation (RAS+), scaled as the header says, and cut along one
plane. A slice lies as a radiologist sees it: the patient's right on the left (sagittal: the face on the left),
anterior (axial) or superior on top. A fourth dimension and any further one count volumes; frames are numbered
volume by volume. Each volume has one window.
"""

import warnings
from collections.abc import Iterator
from math import prod

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from brainscale.config.sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.frame import Frame, percentile_window

AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}  # of a volume in RAS+
SHOWN = 0.05  # of the window: what is brighter is more than background
EMPTY_SHARE = 0.01  # a slice that shows less of its area is empty


def recognises(head: bytes) -> bool:
    """Whether a file that begins so (352 bytes) is NIfTI with its image in the same file."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def is_header_alone(head: bytes) -> bool:
    """Whether the image of this NIfTI header is in another file (.hdr and .img)."""
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def decode(data: bytes, limits: LimitsConfig, window: tuple[float, float], slices: str) -> Iterator[Frame]:
    """Cut every volume of a file into slices.

    Args:
        data: the file's bytes, no longer compressed.
        limits: larger volumes are refused before decoding.
        window: percentiles of a volume that become 0 and 255.
        slices: axial, coronal or sagittal.

    Raises:
        SampleError: `too_many_pixels`, `too_many_frames`, `empty_image`, `truncated` or `corrupt`.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            kind = nib.Nifti1Image if data[344:348] == b"n+1\0" else nib.Nifti2Image
            image = kind.from_bytes(data)
            _check(image, len(data) - getattr(image.dataobj, "offset", 0), limits, AXIS[slices])
            yield from _slices(image, window, AXIS[slices])
    except SampleError:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged header can fail anywhere; its text stays out of ours)
        raise SampleError("corrupt", f"the NIfTI volume cannot be read ({type(error).__name__})") from None


def _check(image: nib.Nifti1Image, nbytes: int, limits: LimitsConfig, axis: int) -> None:
    shape, header = image.shape, image.header
    if not shape or min(shape) < 1:
        raise SampleError("empty_image", f"a volume of {' × '.join(map(str, shape))} holds no voxel")
    voxels = prod(shape)
    if voxels > limits.voxels:
        raise SampleError("too_many_pixels", f"{voxels} is more than {limits.voxels} voxels")
    if voxels * header.get_data_dtype().itemsize > nbytes:
        raise SampleError("truncated", f"{max(0, nbytes)} bytes are fewer than the header's {voxels} voxels need")
    full = (*shape, 1, 1, 1)[:3]
    # Turning to RAS+ exchanges axes: any of the three may become the one that is cut.
    ornt = io_orientation(image.affine)
    cut = full[int(np.argwhere(ornt[:, 0] == axis)[0, 0])]
    frames, pixels = voxels // prod(full) * cut, prod(full) // cut
    if frames > limits.frames:
        raise SampleError("too_many_frames", f"{frames} is more than {limits.frames} slices")
    if pixels > limits.pixels:
        raise SampleError("too_many_pixels", f"a slice of {pixels} pixels is more than {limits.pixels}")


def _slices(image: nib.Nifti1Image, window: tuple[float, float], axis: int) -> Iterator[Frame]:
    mode = str(image.get_data_dtype())
    number = 0
    for volume in _volumes(image):
        low, high = percentile_window(volume, window)
        for k in range(volume.shape[axis]):
            # The two axes that stay are in the order R, A, S; the second becomes the rows, both reversed.
            pixels = np.take(volume, k, axis=axis)[::-1, ::-1].T
            height, width = pixels.shape
            empty = bool(np.mean(pixels > low + SHOWN * (high - low)) < EMPTY_SHARE)
            yield Frame(
                pixels=pixels,
                format="NIfTI",
                mode=mode,
                width=width,
                height=height,
                number=number,
                limits=(low, high),
                empty=empty,
            )
            number += 1


def _volumes(image: nib.Nifti1Image) -> Iterator[np.ndarray]:
    """Each volume, real, [R, A, S]."""
    ornt = io_orientation(image.affine)
    shape = (*image.shape, 1, 1, 1)[:3]
    for place in np.ndindex(image.shape[3:]):
        stored = np.asanyarray(image.dataobj[(..., *place)] if place else image.dataobj)
        yield apply_orientation(_real(stored).reshape(shape), ornt)


def _real(values: np.ndarray) -> np.ndarray:
    """Colour as luminance, complex numbers as magnitude, all else as it is."""
    if values.dtype.names:
        red, green, blue = (values[name].astype(np.float32) for name in "RGB")
        return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue)
    return np.abs(values) if np.iscomplexobj(values) else values
