"""One volume in every container: NIfTI, a classic DICOM series and one enhanced object."""

import gzip
from collections.abc import Sequence
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests.support.dicom import dataset, item, written
from tests.support.files import tarred, zipped

DIRECTIONS = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
}
"""ImageOrientationPatient of slices as a radiologist sees them."""
STEPS = {"axial": (0.0, 0.0, 3.0), "coronal": (0.0, -3.0, 0.0), "sagittal": (-3.0, 0.0, 0.0)}
"""From one slice of a volume in RAS+ to the next, in DICOM's axes, mm."""
AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}


def phantom(shape: tuple[int, int, int] = (24, 28, 12), air: int = 3, seed: int = 0, peak: float = 900.0) -> np.ndarray:
    """A head in air, int16 [R, A, S], with noise everywhere and slices of nothing but air at both ends."""
    generator = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = x**2 + y**2 + z**2 < 0.8
    volume = generator.gamma(2.0, 6.0, shape) + inside * (peak * (0.6 + 0.4 * np.cos(3 * x) * np.cos(2 * y)))
    volume[:, :, :air] = generator.gamma(2.0, 6.0, (*shape[:2], air))
    volume[:, :, shape[2] - air :] = generator.gamma(2.0, 6.0, (*shape[:2], air))
    return np.rint(volume).astype(np.int16)


def planes_of(volume: np.ndarray, slices: str = "axial") -> list[np.ndarray]:
    """The slices of a volume in RAS+, as a radiologist sees them, in order."""
    axis = AXIS[slices]
    return [np.take(volume, i, axis=axis)[::-1, ::-1].T for i in range(volume.shape[axis])]


def as_nifti(volume: np.ndarray, axes: str = "RAS", order: str = "<", kind: Any = nib.Nifti1Image) -> bytes:
    """The volume with its axes turned, in an order of bytes."""
    image = nib.Nifti1Image(volume, np.diag([1.0, 1.0, 3.0, 1.0]))
    wanted = nib.orientations.axcodes2ornt(tuple(axes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
    header = kind.header_class(endianness=order)
    header.set_data_dtype(volume.dtype)
    return bytes(kind(np.asarray(turned.dataobj), turned.affine, header).to_bytes())


def classic(
    plane: np.ndarray, number: int, slices: str = "axial", series: str = "1.2.3", syntax: str | None = None, **more: Any
) -> Dataset:
    """One slice of a series; `number` says where it lies."""
    ds = dataset(np.ascontiguousarray(plane), SeriesInstanceUID=series, SOPInstanceUID=f"{series}.{number + 1}")
    ds.ImageOrientationPatient = list(DIRECTIONS[slices])
    ds.ImagePositionPatient = [round(number * step, 6) + 0.25 for step in STEPS[slices]]
    ds.InstanceNumber = number + 1
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.ascontiguousarray(plane).byteswap().tobytes()
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    return ds


def as_series(
    volume: np.ndarray, slices: str = "axial", series: str = "1.2.3", rescale: bool = False, order: str = "<"
) -> list[bytes]:
    """The files of a classic series, from the first to the last slice.

    Args:
        volume: int16, in RAS+.
        slices: how it is cut.
        series: its identifier.
        rescale: whether each slice has a slope and an intercept of its own.
        order: of bytes.
    """
    files = []
    for number, plane in enumerate(planes_of(volume, slices)):
        stored, more = plane, dict[str, float]()
        if rescale:
            intercept, steps = float(plane.min()), 4 if np.ptp(plane) < 8000 else 2  # stored values have 16 bits
            slope = 2.0 ** -(number % steps)
            stored = np.rint((plane - intercept) / slope).astype(np.uint16)
            more = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        little: str | None = ImplicitVRLittleEndian if number % 2 else None
        syntax = ExplicitVRBigEndian if order == ">" else little
        files.append(written(classic(stored, number, slices, series, syntax, **more)))
    return files


def as_enhanced(
    volume: np.ndarray, slices: str = "axial", series: str = "1.2.3", frame_order: Sequence[int] | None = None
) -> bytes:
    """One multi-frame object; frames lie in any order.

    Args:
        volume: in RAS+.
        slices: how it is cut.
        series: its identifier.
        frame_order: number of the slice in each frame.
    """
    planes = planes_of(volume, slices)
    order = range(len(planes)) if frame_order is None else frame_order
    ds = dataset(np.stack([planes[i] for i in order]), frames=len(planes), SeriesInstanceUID=series)
    ds.SOPClassUID = EnhancedMRImageStorage
    direction = item(ImageOrientationPatient=list(DIRECTIONS[slices]))
    ds.SharedFunctionalGroupsSequence = Items([item(PlaneOrientationSequence=Items([direction]))])
    places = [item(ImagePositionPatient=[round(i * step, 6) for step in STEPS[slices]]) for i in order]
    ds.PerFrameFunctionalGroupsSequence = Items([item(PlanePositionSequence=Items([place])) for place in places])
    return written(ds)


def localizer(series: str = "1.2.9") -> bytes:
    """A coronal scout, brighter than anything else."""
    plane = np.random.default_rng(9).integers(3000, 20_000, (40, 40), np.int16)
    return written(classic(plane, 0, "coronal", series))


AXES = ("RAS", "LPS", "LAS", "SAR", "PIR", "ASL")
ORDERS = ("<", ">")


def containers(volume: np.ndarray, slices: str = "axial", seed: int = 0) -> dict[str, dict[str, bytes]]:
    """The same volume in containers of every kind: name → the files of a folder.

    Args:
        volume: int16, in RAS+.
        slices: how it is cut.
        seed: of the order of files and frames.
    """
    generator = np.random.default_rng(seed)
    count = volume.shape[AXIS[slices]]
    names = [f"{name:04}" for name in generator.permutation(count)]
    order_of_frames = generator.permutation(count).tolist()
    axes, order = AXES[seed % len(AXES)], ORDERS[seed % 2]
    plain = dict(zip(names, as_series(volume, slices, order=order), strict=True))
    rescaled = dict(zip(names, as_series(volume, slices, rescale=True), strict=True))
    other = dict(zip(names, as_series(volume // 3 + 700, slices, series="1.2.8"), strict=True))
    first, second = dict(list(plain.items())[: count // 2]), dict(list(plain.items())[count // 2 :])
    return {
        f"NIfTI, {axes}, {order}": {"a.nii": as_nifti(volume, axes, order)},
        "NIfTI-2, gzip": {"a.nii.gz": gzip.compress(as_nifti(volume, kind=nib.Nifti2Image))},
        "series, shuffled names": plain,
        "series, several folders": {f"{'abc'[i % 3]}/{name}": plain[name] for i, name in enumerate(plain)},
        "series, rescale of each slice": rescaled,
        "series, with another and a localizer": {
            **{f"one-{name}": data for name, data in plain.items()},
            **{f"{name}-other": data for name, data in other.items()},
            "0": localizer(),
        },
        "series in zip": {"a.zip": zipped(plain)},
        "series in tar": {"a.tar": tarred(rescaled)},
        "series, half in zip, half in tar": {"a.zip": zipped(first), "b.tar": tarred(second)},
        "enhanced multi-frame": {"a.dcm": as_enhanced(volume, slices, frame_order=order_of_frames)},
    }
