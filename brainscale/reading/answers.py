"""Checks of what a decoder answers: a file may have taken it over, and all that it may make then is rows of errors."""

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Any

import numpy as np

from brainscale.errors import ERROR_CODES, SampleError
from brainscale.reading.acquisition import Acquisition
from brainscale.reading.histogram import Histogram
from brainscale.reading.sample import Sample, WaitingSlice
from brainscale.reading.series import SliceFacts

MAX_TEXT = 1000  # characters of what a decoder says, names of members aside
_DIGITS = {"phash": 16, "head_phash": 16, "signature": 512}
_DIGITS |= dict.fromkeys(("patient", "patient_with_issuer", "scan", "instance"), 32)
"""Facts that are hexadecimal, and how many digits they have."""
_ELSEWHERE = (
    "sample_id",
    "uri",
    "plane",
    "signature",
    "waiting",
    "acquisition",
    "window_low",
    "window_high",
    "window_of",
)
_OF_SLICE: dict[str, Any] = {column.name: column.type for column in fields(SliceFacts)} | {"geometry": 9}
FACTS: dict[str, Any] = {
    **{column.name: column.type for column in fields(Sample) if column.name not in _ELSEWHERE},
    "acquisition": {column.name: column.type for column in fields(Acquisition)},
    "signature": str | None,
    "slice": _OF_SLICE,
    "kept": str | None,
    "window": 2,
    "alone": bool,
}
"""What the decoder may say of a sample: the type of each fact, how many numbers it has, or what is in it."""
HEAD_FACTS = _OF_SLICE | {"scan": str | None, "frames": int, "width": int | None, "height": int | None}
"""What the decoder may say of the beginning of a DICOM object."""
del HEAD_FACTS["bright"]


def nonsense() -> SampleError:
    """Return the error of a file whose decoder answers what no decoder says."""
    return SampleError("decoder_crashed", "the decoder's answer makes no sense")


def check_facts(facts: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Refuse what no decoder says, unless it was taken over by a file.

    Args:
        facts: what it says of a sample.
        kinds: what it may say, as `FACTS`.

    Raises:
        SampleError: `decoder_crashed`.
    """
    for name, value in facts.items():
        if name not in kinds or not _is_sound(name, value, kinds[name]):
            raise nonsense()


def _is_sound(name: str, value: Any, kind: Any) -> bool:
    if isinstance(kind, Mapping):
        if isinstance(value, dict):
            check_facts(value, kind)
        return isinstance(value, dict)
    if isinstance(kind, int):
        return value is None or (isinstance(value, list) and len(value) == kind and all(map(_is_number, value)))
    if not isinstance(value, kind):
        return False
    if isinstance(value, int):
        return 0 <= value < (2**63 if name == "nbytes" else 2**31)
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, str):
        if name in _DIGITS:
            return len(value) == _DIGITS[name] and set(value) <= set("0123456789abcdef")
        return len(value) <= MAX_TEXT and value.isprintable() and (name != "error_code" or value in ERROR_CODES)
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and isfinite(value)


def fields_of(facts: Mapping[str, Any], blob: memoryview, side: int) -> dict[str, Any]:
    """Return the fields of a `Sample` that an answer of the decoder is about.

    Args:
        facts: what the decoder says of a frame.
        blob: the frame's plane, or its histogram if it waits for the window of its series.
        side: of a plane, pixels.

    Raises:
        SampleError: `decoder_crashed`: no decoder says so.
    """
    check_facts(facts, FACTS)
    known = dict(facts)
    known["acquisition"] = Acquisition(**known.pop("acquisition", {}))
    if signature := known.pop("signature", None):
        known["signature"] = bytes.fromhex(signature)
    window, alone, slice_facts, kept = (known.pop(name, None) for name in ("window", "alone", "slice", "kept"))
    if window is not None:
        known |= {"window_low": window[0], "window_high": window[1], "window_of": "slice" if alone else "volume"}
    if slice_facts is not None:
        geometry = slice_facts.get("geometry")
        told = SliceFacts(**{**slice_facts, "geometry": geometry and tuple(geometry)})
        known["waiting"] = WaitingSlice(facts=told, histogram=_check_histogram(blob), kept=kept)
    elif len(blob):
        known["plane"] = plane_of(blob, side)
    return known


def plane_of(blob: memoryview, side: int) -> np.ndarray:
    """Return a decoder's bytes as a plane, uint8 [side, side].

    Raises:
        SampleError: `decoder_crashed`: they are no plane.
    """
    if len(blob) != side**2:
        raise nonsense()
    return np.frombuffer(blob, np.uint8).reshape(side, side)


def _check_histogram(blob: memoryview) -> bytes:
    data = bytes(blob)
    try:
        Histogram.from_bytes(data)
    except ValueError:
        raise nonsense() from None
    return data


def is_path(value: Any) -> bool:
    """Return whether a value is the path of a member."""
    return isinstance(value, list) and all(map(is_text, value))


def is_text(value: Any) -> bool:
    """Return whether a value is text that every table can hold."""
    return isinstance(value, str) and value.encode(errors="replace").decode() == value
