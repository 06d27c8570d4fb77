"""How a picture was taken, as far as its file says so in defined terms: no free text and no identifiers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

NAMES = ("sagittal", "coronal", "axial")
"""Orientations by the axis that they are perpendicular to: left to right, front to back, feet to head."""
MIN_COSINE = 0.8
"""A plane is oblique if its normal is further from every axis: 37 degrees, as in David Clunie's dicom3tools."""
MIN_SINE = 1e-3
"""Two directions with a smaller angle between them span no plane."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Acquisition:
    """How a picture was taken; None where the file does not say, or in words that the standard does not know.

    Attributes:
        modality: defined term of DICOM, such as MR or CT.
        image_kind: original, derived, localizer or secondary_capture.
        image_type: the known values of ImageType, joined by backslashes.
        orientation: axial, coronal, sagittal or oblique.
        burned_in: whether the pixels may show text, such as a name.
        scanning_sequence: the values of ScanningSequence (SE, IR, GR, EP, RM), joined by backslashes.
        repetition_time: ms.
        echo_time: ms.
        inversion_time: ms.
        field_strength: tesla.
        contrast: whether a contrast agent was given.
    """

    modality: str | None = None
    image_kind: str | None = None
    image_type: str | None = None
    orientation: str | None = None
    burned_in: bool | None = None
    scanning_sequence: str | None = None
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    field_strength: float | None = None
    contrast: bool | None = None


UNSTATED = Acquisition()
"""Of a file that says nothing, as most pictures do."""


def name_orientation(row: Sequence[float], column: Sequence[float]) -> str | None:
    """Return axial, coronal, sagittal or oblique for a plane; None if its directions span none.

    Args:
        row: direction of a row, [3]: left to right, front to back and feet to head, each with any sign.
        column: direction of a column, the same.
    """
    lengths = math.hypot(*row), math.hypot(*column)
    if not all(math.isfinite(length) and length > 0 for length in lengths):
        return None
    (a, b, c), (d, e, f) = (
        [value / length for value in one] for one, length in zip((row, column), lengths, strict=True)
    )
    normal = [abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d)]
    length, cosine = math.hypot(*normal), max(normal)
    if length < MIN_SINE:
        return None
    return NAMES[normal.index(cosine)] if cosine >= MIN_COSINE * length else "oblique"
