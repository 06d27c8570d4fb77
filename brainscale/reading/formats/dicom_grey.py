"""DICOM's transforms of PS3.3 C.7.6.3 and C.11: stored values → grey intensities and the range that is shown.

Rescaling, windows and lookup tables are those of each frame: its functional groups, else the shared ones, else the
data set itself. A window becomes the frame's limits. Without any, 8-bit data stand as they are and all else shares
one percentile window over the whole object.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from typing import TypeVar

import numpy as np
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_color_lut

from brainscale.reading.formats.frame import ENOUGH_VALUES, percentile_window

Limits = tuple[float, float]
Modality = Callable[[np.ndarray], np.ndarray]
Voi = Callable[[np.ndarray], tuple[np.ndarray, Limits]]
T = TypeVar("T")


def grey_frames(
    ds: FileDataset, planes: Iterator[np.ndarray], frames: int, percentiles: Limits
) -> Iterator[tuple[np.ndarray, Limits | None]]:
    """Each frame's grey intensities, and those that become 0 and 255."""
    if ds.SamplesPerPixel == 3 or ds.PhotometricInterpretation == "PALETTE COLOR":
        yield from (_luminance(ds, plane) for plane in planes)
        return
    little = bool(ds.original_encoding[1])
    modality = _each(ds, frames, "PixelValueTransformationSequence", lambda item: _modality(item, little))
    voi = _each(ds, frames, "FrameVOILUTSequence", lambda item: _voi(item, little))
    bits, shared = stored_bits(ds), None
    if bits <= 8 and "PixelData" in ds and not ds.PixelRepresentation and not any(modality):
        shared = None if bits == ds.BitsAllocated == 8 else (0.0, 2.0**bits - 1)
    elif None in voi:
        held = list(planes)
        shared, planes = _shared_window(held, modality, percentiles), iter(held)
    for plane, rescale, look in zip(planes, modality, voi, strict=True):
        values = rescale(plane) if rescale else plane
        yield look(values) if look else (values, shared)


def _shared_window(held: list[np.ndarray], modality: list[Modality | None], percentiles: Limits) -> Limits:
    step = max(1, -(-sum(plane.size for plane in held) // ENOUGH_VALUES))
    some = [plane.reshape(-1)[::step] for plane in held]
    return percentile_window(
        np.concatenate([f(x) if f else x for x, f in zip(some, modality, strict=True)]), percentiles
    )


def _each(ds: Dataset, frames: int, macro: str, make: Callable[[Dataset], T]) -> list[T]:
    """What `make` gives for each frame of the frame's own functional group, the shared one or the data set."""
    shared = _item(ds, "SharedFunctionalGroupsSequence")
    common = make((shared and _item(shared, macro)) or ds)
    own = [_item(groups, macro) for groups in (ds.get("PerFrameFunctionalGroupsSequence") or [])[:frames]]
    return [common if item is None else make(item) for item in own] + [common] * (frames - len(own))


def _item(ds: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, if there is one."""
    items = ds.get(keyword)
    return items[0] if items else None


def _modality(ds: Dataset, little: bool) -> Modality | None:
    """Stored values → modality values (PS3.3 C.11.1); None if they are the same."""
    if (item := _item(ds, "ModalityLUTSequence")) and (lut := _lut(item, "LUT", little)):
        return lut[0]
    slope, intercept = number_of(ds, "RescaleSlope"), number_of(ds, "RescaleIntercept")
    if not slope or intercept is None or (slope, intercept) == (1, 0):
        return None
    line = np.float64(slope), np.float64(intercept)
    return lambda stored: stored * line[0] + line[1]


def _voi(ds: Dataset, little: bool) -> Voi | None:
    """Modality values → values of interest and their range (PS3.3 C.11.2), by the first of the alternatives."""
    if (item := _item(ds, "VOILUTSequence")) and (lut := _lut(item, "LUT", little)):
        look, top = lut
        return lambda values: (look(values), (0.0, top))
    centre, width = number_of(ds, "WindowCenter"), number_of(ds, "WindowWidth")
    function = text_of(ds, "VOILUTFunction").upper()
    exact = function in ("LINEAR_EXACT", "SIGMOID")
    if centre is None or width is None or width <= 0 or (width < 1 and not exact):
        return None
    if not exact:
        centre, width = centre - 0.5, width - 1
    low, high = centre - width / 2, centre + width / 2
    if function == "SIGMOID":
        return lambda values: (255 / (1 + np.exp(4 * (0.5 - (values - low) / (high - low)))), (0.0, 255.0))
    return lambda values: (values, (low, high))


def _lut(ds: Dataset, name: str, little: bool) -> tuple[Modality, float] | None:
    """A lookup table and the highest value it can give; None if it makes no sense."""
    entries, first, bits = ds[f"{name}Descriptor"].value
    stored = ds[f"{name}Data"].value
    if not stored or not 1 <= bits <= 16:
        return None
    entries = (entries & 0xFFFF) or 2**16
    words = np.frombuffer(stored, "<u2" if little else ">u2") if isinstance(stored, bytes) else np.atleast_1d(stored)
    if words.size < entries:  # of 8 bits, two to a word
        words = words.astype("<u2").view(np.uint8)
    table = words[:entries].astype(np.uint8 if bits <= 8 else np.uint16)
    # pydicom's own functions index with the type of the table, or of the values, and so wrap around.
    return lambda values: table[np.clip(values.astype(np.int64) - first, 0, table.size - 1)], 2.0**bits - 1


def _luminance(ds: FileDataset, plane: np.ndarray) -> tuple[np.ndarray, Limits | None]:
    """ITU-R 601-2 luma of a frame in colour, as stored or by its palette."""
    bits = stored_bits(ds)
    if plane.ndim == 2:
        plane = _painted(ds, plane)
        bits = 8 * plane.itemsize
    if plane.dtype == np.uint8:
        return np.asarray(Image.fromarray(plane).convert("L")), None
    return plane @ np.array([0.299, 0.587, 0.114]), (0.0, 2.0**bits - 1)


def _painted(ds: FileDataset, plane: np.ndarray) -> np.ndarray:
    """Palette indices → [H, W, 3]."""
    if "SegmentedRedPaletteColorLookupTableData" in ds:
        return np.ascontiguousarray(apply_color_lut(plane, ds)[..., :3])
    little = bool(ds.original_encoding[1])
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    return np.stack([lut[0](plane) for name in names if (lut := _lut(ds, name, little))], axis=-1)


def stored_bits(ds: Dataset) -> int:
    """Bits of a stored value that count."""
    return int(number_of(ds, "BitsStored") or ds.BitsAllocated)


def number_of(ds: Dataset, keyword: str) -> float | None:
    """An element's first value; None if it is absent or no finite number."""
    try:
        value = ds.get(keyword)
        number = float(value[0] if isinstance(value, MultiValue) else value)
    except Exception:  # noqa: BLE001 (values are converted when asked for, and may hold anything)
        return None
    return number if isfinite(number) else None


def text_of(ds: Dataset, keyword: str) -> str:
    """An element's text without padding; empty if it is absent or cannot be read."""
    try:
        return str(ds.get(keyword) or "").strip(" \0")
    except Exception:  # noqa: BLE001 (as above)
        return ""
