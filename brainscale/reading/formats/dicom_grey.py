"""DICOM's transforms of PS3.3 C.7.6.3 and C.11: stored values → grey intensities and their range.

Rescaling, windows and lookup tables are those of each frame: its functional groups, else the shared ones, else the
data set itself. Padding (C.7.5.1.1.2) is no part of the picture.

Where the file's own window counts, it becomes the frame's grey range. Without a window, 8-bit pixels stay as they are,
and all else shares one range, at two percentiles of the whole object. Else the grey range of a slice comes from its
series, which is not known here. Colour and 8-bit pictures that lie nowhere in space are no slices.
"""

from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image
from pydicom import Dataset, FileDataset
from pydicom.pixels.processing import apply_color_lut

from brainscale.reading.formats.frame import MAX_VALUES, percentile_range
from brainscale.reading.histogram import GreyRange, Rescale

Modality = Rescale
"""Stored values → modality values (PS3.3 C.11.1)."""
Voi = Callable[[np.ndarray], tuple[np.ndarray, GreyRange]]
"""Modality values → values of interest and their range (PS3.3 C.11.2)."""
T = TypeVar("T")


class Grey(NamedTuple):
    """A frame's intensities, [H, W].

    Attributes:
        pixels: the intensities.
        grey_range: what becomes 0 and 255; None where 8-bit pixels stay as they are.
        opacity: uint8, 0 where a pixel is padding; None without padding.
        in_series: whether the range comes from the slices of the series.
        rescale: turns `pixels` into intensities; None where they are.
    """

    pixels: np.ndarray
    grey_range: GreyRange | None
    opacity: np.ndarray | None = None
    in_series: bool = False
    rescale: Rescale | None = None


def grey_frames(
    ds: FileDataset,
    planes: Iterator[np.ndarray],
    frames: int,
    percentiles: tuple[float, float],
    *,
    by_volume: bool = False,
    in_space: bool = False,
) -> Iterator[Grey]:
    """Turn the stored values of each frame into grey intensities.

    Args:
        ds: the object.
        planes: stored values of each frame, [H, W] or [H, W, 3].
        frames: number of frames.
        percentiles: range of an object that names no window.
        by_volume: whether the range of a slice comes from its series, and no window of its own counts.
        in_space: whether the object says where it lies.
    """
    if ds.SamplesPerPixel == 3 or ds.PhotometricInterpretation == "PALETTE COLOR":
        yield from (_luminance(ds, plane) for plane in planes)
        return
    little_endian, signed = bool(ds.original_encoding[1]), bool(ds.PixelRepresentation)
    modalities = _for_each_frame(
        ds, frames, "PixelValueTransformationSequence", lambda item: _modality(item, little_endian, signed)
    )
    bits, shared_range, padding = stored_bits(ds), None, _padding_range(ds)
    is_as_shown = bits <= 8 and "PixelData" in ds and not ds.PixelRepresentation and not any(modalities)
    if by_volume and (in_space or not is_as_shown):
        for plane, modality in zip(planes, modalities, strict=True):
            yield Grey(plane, None, _opacity(plane, padding), in_series=True, rescale=modality)
        return
    vois = _for_each_frame(ds, frames, "FrameVOILUTSequence", lambda item: _voi(item, little_endian, signed))
    if is_as_shown:
        shared_range = None if bits == ds.BitsAllocated == 8 else (0.0, 2.0**bits - 1)
    elif None in vois:
        all_planes = list(planes)
        shared_range, planes = _shared_range(all_planes, modalities, padding, percentiles), iter(all_planes)
    for plane, modality, voi in zip(planes, modalities, vois, strict=True):
        values = modality(plane) if modality else plane
        yield Grey(*(voi(values) if voi else (values, shared_range)), _opacity(plane, padding))


def _shared_range(
    planes: list[np.ndarray],
    modalities: list[Modality | None],
    padding: GreyRange | None,
    percentiles: tuple[float, float],
) -> GreyRange:
    step = max(1, -(-sum(plane.size for plane in planes) // MAX_VALUES))
    sampled = [plane.reshape(-1)[::step] for plane in planes]
    if padding:
        sampled = [stored[~_is_between(stored, padding)] for stored in sampled]
    common = modalities[0]
    if isinstance(common, _Rescale) and common.slope > 0 and all(modality == common for modality in modalities):
        return percentile_range(np.concatenate(sampled), percentiles, common)
    values = [modality(stored) if modality else stored for stored, modality in zip(sampled, modalities, strict=True)]
    return percentile_range(np.concatenate(values), percentiles)


def _padding_range(ds: Dataset) -> GreyRange | None:
    """Return the lowest and the highest stored value that is padding; None for an object without."""
    kind = next((kind for kind in ("Float", "DoubleFloat") if f"{kind}PixelData" in ds), "")
    value, limit = number_of(ds, f"{kind}PixelPaddingValue"), number_of(ds, f"{kind}PixelPaddingRangeLimit")
    if value is None:
        return None
    ends = (value, value if limit is None else limit)
    if not kind:  # the sign of padding and pixels often differs: both are bits
        bits = stored_bits(ds)
        lowest = -(2 ** (bits - 1)) if ds.PixelRepresentation else 0
        ends = ((ends[0] - lowest) % 2**bits + lowest, (ends[1] - lowest) % 2**bits + lowest)
    return min(ends), max(ends)


def _is_between(values: np.ndarray, ends: GreyRange) -> np.ndarray:
    return np.asarray((values >= ends[0]) & (values <= ends[1]))


def _opacity(stored: np.ndarray, padding: GreyRange | None) -> np.ndarray | None:
    """Return 0 for padding and 255 for all else; None where nothing is padding."""
    is_padding = padding and _is_between(stored, padding)
    return None if is_padding is None or not is_padding.any() else np.where(is_padding, 0, 255).astype(np.uint8)


def _for_each_frame(ds: Dataset, frames: int, macro: str, make: Callable[[Dataset], T]) -> list[T]:
    """Return what `make` gives for each frame, of its own functional group, the shared one or the data set."""
    shared_groups = _first_item(ds, "SharedFunctionalGroupsSequence")
    common = make((shared_groups and _first_item(shared_groups, macro)) or ds)
    items = [_first_item(groups, macro) for groups in (ds.get("PerFrameFunctionalGroupsSequence") or [])[:frames]]
    return [common if item is None else make(item) for item in items] + [common] * (frames - len(items))


def _first_item(ds: Dataset, keyword: str) -> Dataset | None:
    """Return the first item of a sequence, if there is one."""
    items = ds.get(keyword)
    return items[0] if items else None


def _modality(ds: Dataset, little_endian: bool, signed: bool) -> Modality | None:
    """Return the transform from stored to modality values; None if they are the same."""
    if (item := _first_item(ds, "ModalityLUTSequence")) and (lut := _lut(item, "LUT", little_endian, signed)):
        return lut[0]
    slope, intercept = number_of(ds, "RescaleSlope"), number_of(ds, "RescaleIntercept")
    if not slope or intercept is None or (slope, intercept) == (1, 0):
        return None
    return _Rescale(np.float64(slope), np.float64(intercept))


@dataclass(frozen=True)
class _Rescale:
    slope: np.float64
    intercept: np.float64

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        return np.asarray(stored * self.slope + self.intercept)


def _voi(ds: Dataset, little_endian: bool, signed: bool) -> Voi | None:
    """Return the transform from modality values to values of interest, by the first of the alternatives."""
    if (item := _first_item(ds, "VOILUTSequence")) and (lut := _lut(item, "LUT", little_endian, signed)):
        look_up, highest = lut
        return lambda values: (look_up(values), (0.0, highest))
    centre, width = number_of(ds, "WindowCenter"), number_of(ds, "WindowWidth")
    function = text_of(ds, "VOILUTFunction").upper()
    exact = function in ("LINEAR_EXACT", "SIGMOID")
    if centre is None or width is None or width <= 0 or (width < 1 and not exact):
        return None
    if not exact:
        centre, width = centre - 0.5, width - 1
    if width == 0:  # a threshold
        return lambda values: (np.where(values > centre, 255, 0).astype(np.uint8), (0.0, 255.0))
    low, high = centre - width / 2, centre + width / 2
    if function == "SIGMOID":
        return lambda values: (255 / (1 + np.exp(4 * (0.5 - (values - low) / (high - low)))), (0.0, 255.0))
    return lambda values: (values, (low, high))


def _lut(ds: Dataset, name: str, little_endian: bool, signed: bool = False) -> tuple[Modality, float] | None:
    """Return a lookup table and the highest value that it can give; None if it makes no sense.

    Args:
        ds: holds the table.
        name: what its elements' keywords begin with.
        little_endian: its order of bytes.
        signed: whether the values that are looked up have a sign.
    """
    descriptor, stored = ds.get(f"{name}Descriptor"), ds.get(f"{name}Data")
    is_triple = isinstance(descriptor, MutableSequence) and len(descriptor) == 3
    if not stored or not is_triple or not 1 <= descriptor[2] <= 16:
        return None
    entries, first, bits = descriptor
    entries = (entries & 0xFFFF) or 2**16
    if signed and first > 0x7FFF:  # written as unsigned
        first -= 2**16
    byte_order = "<" if little_endian else ">"
    words = np.frombuffer(stored, f"{byte_order}u2") if isinstance(stored, bytes) else np.atleast_1d(stored)
    if words.size < entries:  # of 8 bits, two to a word
        words = words.astype("<u2").view(np.uint8)
    table = words[:entries].astype(np.uint8 if bits <= 8 else np.uint16)
    # pydicom's own functions index with the type of the table, or of the values, and so wrap around.
    return lambda values: table[np.clip(values.astype(np.int64) - first, 0, table.size - 1)], 2.0**bits - 1


def _luminance(ds: FileDataset, plane: np.ndarray) -> Grey:
    """Return the ITU-R 601-2 luma of a frame in colour, as stored or by its palette."""
    bits = stored_bits(ds)
    if ds.SamplesPerPixel == 1:
        plane = _apply_palette(ds, plane)
        bits = 8 * plane.itemsize
    full_range = None if plane.dtype == np.uint8 and bits == 8 else (0.0, 2.0**bits - 1)
    if plane.ndim == 2:
        return Grey(plane, full_range)
    if plane.dtype == np.uint8:
        return Grey(np.asarray(Image.fromarray(plane).convert("L")), full_range)
    return Grey(plane @ np.array([0.299, 0.587, 0.114]), full_range)


def _apply_palette(ds: FileDataset, plane: np.ndarray) -> np.ndarray:
    """Turn palette indices into colours, [H, W, 3]."""
    if "SegmentedRedPaletteColorLookupTableData" in ds:
        return np.ascontiguousarray(apply_color_lut(plane, ds)[..., :3])
    little_endian = bool(ds.original_encoding[1])
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    return np.stack([lut[0](plane) for name in names if (lut := _lut(ds, name, little_endian))], axis=-1)


def stored_bits(ds: Dataset) -> int:
    """Return how many bits of a stored value count."""
    return int(number_of(ds, "BitsStored") or ds.BitsAllocated)


def number_of(ds: Dataset, keyword: str) -> float | None:
    """Return an element's first value; None if it is absent or no finite number."""
    try:
        value = ds.get(keyword)
        number = float(value[0] if isinstance(value, MutableSequence) else value)
    except Exception:  # noqa: BLE001 (values are converted when asked for, and may hold anything)
        return None
    return number if isfinite(number) else None


def text_of(ds: Dataset, keyword: str) -> str:
    """Return an element's text without padding; empty if it is absent or cannot be read."""
    try:
        return str(ds.get(keyword) or "").strip(" \0")
    except Exception:  # noqa: BLE001 (as above)
        return ""
