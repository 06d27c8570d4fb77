"""Slices → the window of their volume: the same whether they come in one file or in hundreds, in whatever order.

The slices of a series are divided into volumes: by orientation, size and photometric interpretation, and where every
position occurs several times (a series in time, of echoes or of diffusion weights), by their order there. All slices
of a volume share one window, at two percentiles of all their pixels, and one limit below which a pixel is background.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from brainscale.reading.histogram import GreyRange
from brainscale.reading.waiting_histograms import WaitingHistograms

BACKGROUND = 0.05
"""Share of the grey range: what is brighter is more than background."""
EMPTY_PERCENT = 1
"""A slice is empty if less of its area is brighter than background."""
SAME_DIRECTION = 0.02
"""By which the direction cosines of one volume's slices may differ."""
SAME_PLACE = 0.01
"""Distance of two slices in mm up to which they are at one place."""
GAP = 1.5
"""Usual distances of neighbours: a slice is missing where two are further apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceFacts:
    """What a slice tells of itself, to find its volume and its place there.

    Attributes:
        instance: keyed hash of the object's identifier and the number of the frame; None without one.
        geometry: direction cosines of a row and of a column, and the position of the first pixel in mm (PS3.3
            C.7.6.2), nine numbers; None where the file names none that make sense.
        number: of the object in its series, and of the frame in its object; None without one.
        inverted: whether low intensities are bright.
        bright: intensity that 1 % of the pixels reach or exceed; None where fewer than that are part of the picture.
    """

    instance: str | None = None
    geometry: tuple[float, ...] | None = None
    number: float | None = None
    inverted: bool = False
    bright: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A slice among others.

    Attributes:
        sample_id: of the slice.
        series: keyed hash of the series, or the file where it names none.
        size: width and height, pixels.
        facts: what the slice tells of itself.
    """

    sample_id: str
    series: str
    size: tuple[int | None, int | None]
    facts: SliceFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceWindow:
    """How a slice is shown beside the others of its volume.

    Attributes:
        low: intensity that becomes 0.
        high: intensity that becomes 255.
        slice_index: number of the slice in its series, from 0, volume by volume; copies have one.
        alone: whether the window comes from this slice only.
        empty: whether the slice shows next to nothing.
    """

    low: float
    high: float
    slice_index: int
    alone: bool
    empty: bool


@dataclass(frozen=True, kw_only=True)
class SeriesNotes:
    """Series that are not simply one volume: kind → (number of series, number of slices, a sample of the first).

    Attributes:
        series: number of series of several slices.
        kinds: `gap`, `copy`, `orientation`, `repeated` or `uneven` → counts.
    """

    series: int = 0
    kinds: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def lines(self, name_of: Callable[[str], str] = str) -> Iterator[str]:
        """Yield a line for the user on each kind that occurs.

        Args:
            name_of: sample id → what messages call the sample.
        """
        for kind, (series, slices, first) in self.kinds.items():
            what = _LINES[kind].format(slices=slices)
            yield f"{series} of {self.series} series {what}; the first has '{name_of(first)}'"

    def by_sample(self) -> dict[str, str]:
        """Return a sample of the first series of each kind → what is said there, without a name."""
        texts: dict[str, list[str]] = defaultdict(list)
        for kind, (series, slices, first) in self.kinds.items():
            texts[first].append(f"{series} of {self.series} series {_LINES[kind].format(slices=slices)}")
        return {sample_id: "; ".join(lines) for sample_id, lines in texts.items()}


_LINES = {
    "gap": "have gaps: about {slices} slice(s) are missing, and count for no window",
    "copy": "contain {slices} slice(s) again: a copy counts once for the window, and is a row of its own",
    "orientation": "have slices of several orientations or sizes: {slices} parts, each with a window of its own",
    "repeated": "have several slices at every position: {slices} volumes, each with a window of its own",
    "uneven": "have several slices at some positions and fewer at others: their {slices} slices share one window",
}


def add_notes(parts: Iterable[SeriesNotes]) -> SeriesNotes:
    """Return what there is to say about the series of several portions; a series in several of them counts in each.

    Args:
        parts: in the order of the sample ids.
    """
    series, kinds = 0, dict[str, tuple[int, int, str]]()
    for part in parts:
        series += part.series
        for kind, (count, slices, first) in part.kinds.items():
            count_before, slices_before, earliest = kinds.get(kind, (0, 0, first))
            kinds[kind] = count_before + count, slices_before + slices, earliest
    return SeriesNotes(series=series, kinds={kind: kinds[kind] for kind in _LINES if kind in kinds})


Volume = list[int]
"""Indices of the slices that share a window, in order; copies are not among them."""


def choose_windows(
    slices: Sequence[Slice],
    histograms: Iterable[tuple[str, bytes]] | WaitingHistograms,
    percentiles: tuple[float, float],
) -> tuple[dict[str, SliceWindow], SeriesNotes]:
    """Choose the windows of slices from their histograms.

    Args:
        slices: of whole series, in any order.
        histograms: sample id and histogram of each of them, in any order; read once. They are merged volume by volume.
        percentiles: of a volume, become 0 and 255.

    Returns:
        sample id → window, and what there is to say about the series.
    """
    volumes, copies, notes = find_volumes(slices)
    with histograms if isinstance(histograms, WaitingHistograms) else WaitingHistograms(histograms) as waiting:
        ranges = [waiting.merge(slices[i].sample_id for i in volume).percentiles(percentiles) for volume in volumes]
    windows: dict[str, SliceWindow] = {}
    positions: dict[str, int] = defaultdict(int)
    for volume, (low, high) in zip(volumes, ranges, strict=True):
        for i in volume:
            one = slices[i]
            windows[one.sample_id] = SliceWindow(
                low=low,
                high=high,
                slice_index=positions[one.series],
                alone=len(volume) == 1,
                empty=is_background(one.facts, (low, high)),
            )
            positions[one.series] += 1
    return windows | {slices[i].sample_id: windows[slices[k].sample_id] for i, k in copies.items()}, notes


def is_background(facts: SliceFacts, window: GreyRange) -> bool:
    """Return whether a slice shows next to nothing beside its volume: less than 1 % of it is brighter than background.

    Args:
        facts: of the slice.
        window: of the volume.
    """
    low, high = window
    if facts.bright is None:
        return True
    if facts.inverted:
        return not facts.bright < high - BACKGROUND * (high - low)
    return not facts.bright > low + BACKGROUND * (high - low)


def bright_rank(pixels: int) -> int:
    """Return how many pixels of a slice must be brighter than background, so that it is not empty."""
    return -(-pixels * EMPTY_PERCENT // 100)


def find_volumes(slices: Sequence[Slice]) -> tuple[list[Volume], dict[int, int], SeriesNotes]:
    """Divide slices into volumes.

    Returns:
        The volumes, series by series; index of each copy → index of the first one; and what there is to say.
    """
    by_series: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(slices)), key=lambda i: slices[i].sample_id):
        by_series[slices[i].series].append(i)
    volumes: list[Volume] = []
    copies: dict[int, int] = {}
    notes: dict[str, list[tuple[int, str]]] = {kind: [] for kind in _LINES}
    for members in by_series.values():
        originals, copies_here = _without_copies(slices, members)
        copies |= copies_here
        stacks = _stacks(slices, originals)
        counts = {"copy": len(copies_here), "orientation": len(stacks) if len(stacks) > 1 else 0}
        for stack in stacks:
            parts, found = _cut_stack(slices, stack)
            volumes += parts
            counts |= {kind: counts.get(kind, 0) + count for kind, count in found.items()}
        for kind, count in counts.items():
            if count:
                notes[kind].append((count, slices[members[0]].sample_id))
    kinds = {kind: (len(some), sum(n for n, _ in some), some[0][1]) for kind, some in notes.items() if some}
    return volumes, copies, SeriesNotes(series=len(by_series), kinds=kinds)


def _without_copies(slices: Sequence[Slice], members: list[int]) -> tuple[list[int], dict[int, int]]:
    """Return the first slice of each instance, and index of each other one → index of the first.

    What differs in more than its file is no copy: some tools give all slices the identifier of one.
    """
    first_of: dict[tuple[object, ...], int] = {}
    copies = {}
    for i in members:
        facts = slices[i].facts
        if facts.instance is None:
            continue
        known = (facts.instance, facts.geometry, facts.number, facts.bright, slices[i].size)
        if (first := first_of.setdefault(known, i)) != i:
            copies[i] = first
    return [i for i in members if i not in copies], copies


def _stacks(slices: Sequence[Slice], members: list[int]) -> list[list[int]]:
    """Divide the slices of a series by direction, size and photometric interpretation."""
    stacks: list[tuple[tuple[float, ...] | None, object, list[int]]] = []
    for i in members:
        geometry, kind = slices[i].facts.geometry, (slices[i].size, slices[i].facts.inverted)
        for direction, other_kind, stack in stacks:
            if kind == other_kind and _is_same_direction(geometry, direction):
                stack.append(i)
                break
        else:
            stacks.append((geometry and geometry[:6], kind, [i]))
    return [stack for _, _, stack in stacks]


def _is_same_direction(geometry: tuple[float, ...] | None, direction: tuple[float, ...] | None) -> bool:
    if geometry is None or direction is None:
        return geometry is direction
    return all(abs(a - b) <= SAME_DIRECTION for a, b in zip(geometry, direction, strict=False))


def _cut_stack(slices: Sequence[Slice], stack: list[int]) -> tuple[list[Volume], dict[str, int]]:
    """Put the slices of one direction in order, and divide them where every position occurs several times.

    Returns:
        The volumes, and kind of note → number of slices or volumes.
    """
    facts = [slices[i].facts for i in stack]
    numbers = [
        (float("inf") if one.number is None else one.number, slices[i].sample_id)
        for i, one in zip(stack, facts, strict=True)
    ]
    if facts[0].geometry is None:
        order = sorted(range(len(stack)), key=numbers.__getitem__)
        return [[stack[k] for k in order]], {}
    normal = canonical_normal(facts[0].geometry)
    distances = np.array([np.dot(normal, one.geometry[6:]) for one in facts if one.geometry])
    by_distance = np.argsort(distances, kind="stable")
    steps = np.diff(distances[by_distance])
    places = np.empty(len(stack), np.int64)
    places[by_distance] = np.cumsum([0, *(steps > SAME_PLACE)])
    order = sorted(range(len(stack)), key=lambda k: (places[k], numbers[k]))
    counts = np.bincount(places)
    notes = {"gap": _count_missing(steps[steps > SAME_PLACE])}
    if counts.max() == 1:
        return [[stack[k] for k in order]], notes
    if counts.min() < counts.max():
        return [[stack[k] for k in order]], notes | {"uneven": len(stack)}
    repeats = int(counts[0])
    return [[stack[k] for k in order[start::repeats]] for start in range(repeats)], notes | {"repeated": repeats}


def canonical_normal(geometry: Sequence[float]) -> np.ndarray:
    """Return the direction in which slices are numbered: to the right, to anterior or superior, in DICOM's axes.

    Args:
        geometry: as in `SliceFacts`.
    """
    normal = np.cross(geometry[:3], geometry[3:6])
    normal = normal / np.linalg.norm(normal)
    axis = int(np.abs(normal).argmax())
    return np.asarray(normal if (normal[axis] > 0) == (axis == 2) else -normal)


def _count_missing(steps: np.ndarray) -> int:
    """Return how many slices are missing between neighbours at these distances, by their usual distance."""
    if len(steps) < 2:
        return 0
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    return int(np.sum(np.rint(steps[steps > GAP * usual] / usual) - 1))
