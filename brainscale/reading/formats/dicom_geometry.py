"""A DICOM header → where each frame lies, and its number: what puts the slices of a series in order."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import isfinite

import numpy as np
from pydicom import Dataset

from brainscale.reading.formats.dicom_grey import number_of, text_of

Geometry = tuple[float, ...]
MAX_MM = 1e6
"""A position further away than this makes no sense."""


def find_places(ds: Dataset, frames: int) -> Iterator[Geometry | None]:
    """Yield the geometry of each frame, as in `series.SliceFacts`: of its own functional group, the shared one or none.

    Args:
        ds: the object.
        frames: number of frames.
    """
    groups: Sequence[Dataset] = []
    shared: Dataset | None = None
    with suppress(Exception):
        groups = list(ds.get("PerFrameFunctionalGroupsSequence") or [])[:frames]
    with suppress(Exception):
        shared = (ds.get("SharedFunctionalGroupsSequence") or [None])[0]
    for number in range(frames):
        levels = [level for level in (groups[number] if number < len(groups) else None, shared) if level is not None]
        direction = _numbers(levels, "PlaneOrientationSequence", ds, "ImageOrientationPatient", 6)
        position = _numbers(levels, "PlanePositionSequence", ds, "ImagePositionPatient", 3)
        yield _check(direction, position)


def find_number(ds: Dataset, frame: int | None) -> float | None:
    """Return the number of an object in its series and, behind the point, of the frame; None without one."""
    number = number_of(ds, "InstanceNumber")
    if frame is None:
        return number
    return (number or 0.0) + frame / 2**20


def find_instance(ds: Dataset, frame: int | None) -> str | None:
    """Return the identifier of the object and the number of the frame; None without one."""
    uid = text_of(ds, "SOPInstanceUID")
    return f"{uid}#{frame}" if uid and frame is not None else uid or None


def _numbers(levels: Sequence[Dataset], macro: str, ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return the values of an element in the first functional group that has its macro, else in the data set."""
    for level in levels:
        with suppress(Exception):
            if items := level.get(macro):
                return _floats(items[0], keyword, count)
    return _floats(ds, keyword, count)


def _floats(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    with suppress(Exception):
        values = tuple(float(value) for value in ds.get(keyword) or ())
        if len(values) == count and all(isfinite(value) for value in values):
            return values
    return None


def _check(direction: tuple[float, ...] | None, position: tuple[float, ...] | None) -> Geometry | None:
    """Return direction and position together, if the directions span a plane."""
    if direction is None or position is None or max(map(abs, position)) > MAX_MM:
        return None
    row, column = (np.array(part) for part in (direction[:3], direction[3:]))
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if min(lengths) < 1e-3 or max(lengths) > 1e3 or np.linalg.norm(np.cross(row, column)) < 1e-3 * np.prod(lengths):
        return None
    return (*(row / lengths[0]).tolist(), *(column / lengths[1]).tolist(), *position)
