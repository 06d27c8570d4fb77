"""Which files to read together: those that share a DICOM series, found by a look at the beginning of each file.

A series in a few files is read at once. One that is spread over too much for that, or of which only some files are to
be read, is read twice: first its histograms, then each file alone with the windows that they give.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import SampleError
from brainscale.reading.sample import as_slice
from brainscale.reading.sample_ids import file_of
from brainscale.reading.series import Slice, SliceFacts, SliceWindow, choose_windows, find_volumes
from brainscale.reading.sources import SourceFile, open_file
from brainscale.reading.waiting_histograms import WaitingHistograms
from brainscale.storage.remote import is_address

GROUP_NBYTES = 256 * 2**20
"""Size of the files of a series up to which they are read together."""
NO_DICOM = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".jp2",
    ".nii",
    ".nii.gz",
    ".mgh",
    ".mgz",
)
"""Suffixes of files that are looked into only if they are local and begin as DICOM does, with a preamble."""
CHECKED_AT_ONCE, CHECKERS, MAX_CHECKED = 256, 16, 10_000
"""Files that a thread checks for a preamble before it takes more, and threads: for folders that are far away."""
SERIES = pa.schema(
    [
        ("file_id", pa.string()),  # or key of a portion
        ("sample_id", pa.string()),  # of an object of one frame
        ("scan", pa.string()),  # keyed hash of the series
        ("frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("instance", pa.string()),  # this and the next three: as in `series.SliceFacts`
        ("geometry", pa.list_(pa.float64())),
        ("number", pa.float64()),
        ("inverted", pa.bool_()),
    ]
)
"""What a look into the files yields: a row for each DICOM object."""

_IDS = ("file_id", "scan", "sample_id")
Run = Callable[[Sequence[SourceFile]], Iterable[pa.Table]]
"""Applies a reading function to files, here or on a cluster, and yields its tables."""


@dataclass(frozen=True, kw_only=True)
class ReadingPlan:
    """Files in the order to read them, those of one group side by side.

    Attributes:
        files: with groups, and with windows where these are known.
        series: key of a file or portion → keyed hash of a series in it → smallest sample id of that series, of the
            series that are spread over several files or portions.
        notices: what there is to say about the series, a line each.
    """

    files: list[SourceFile]
    series: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def find_unsure(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files that may hold slices of a DICOM series: by their names, or in smaller jobs by their first bytes.

    Of an object in a store, and of more than `MAX_CHECKED` files, the names are believed: each check is one request.
    """
    by_name = [file for file in files if file.uri.lower().endswith(NO_DICOM) and not is_address(file.uri)]
    if len(by_name) > MAX_CHECKED:
        by_name = []
    chunks = [by_name[start : start + CHECKED_AT_ONCE] for start in range(0, len(by_name), CHECKED_AT_ONCE)]
    with ThreadPoolExecutor(CHECKERS) as pool:
        named_wrong = {file.uri for part in pool.map(_with_preamble, chunks) for file in part}
    return [file for file in files if not file.uri.lower().endswith(NO_DICOM) or file.uri in named_wrong]


def _with_preamble(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the local files that have DICOM's prefix behind a preamble."""
    found = []
    for file in files:
        with suppress(SampleError), open_file(file.uri) as (stream, nbytes):
            stream.seek(128)
            if nbytes > 132 and stream.read(4) == b"DICM":
                found.append(file)
    return found


def plan_reading(
    files: Sequence[SourceFile],
    spec: PreprocessConfig,
    look: Run,
    measure: Run,
    wanted: Iterable[str] | None = None,
    *,
    name_of: Callable[[str], str] = str,
    name_series: bool = False,
) -> ReadingPlan:
    """Find the files that share a series, and the windows of series that cannot be read at once.

    Args:
        files: all files of the sources, large archives in portions.
        spec: how slices are windowed.
        look: yields tables of schema `SERIES`.
        measure: yields the samples of files without planes, in tables of schema `sample.COLUMNS`.
        wanted: ids of the files to read; by default all.
        name_of: sample id → what messages call the sample.
        name_series: whether the names of series are needed where their windows are not.
    """
    chosen = {file.sample_id for file in files} if wanted is None else set(wanted)
    is_needed = spec.window_source == "volume" or name_series
    unsure = find_unsure([file for file in files if file.sample_ids is None]) if is_needed else []
    if len(unsure) < 2 or chosen.isdisjoint(file.sample_id for file in unsure):
        return ReadingPlan(files=[file for file in files if file.sample_id in chosen])
    series_of: dict[str, set[str]] = defaultdict(set)
    first_of_series: dict[str, str] = {}
    slices: list[Slice] = []
    portions = {file.key for file in unsure if file.members}
    portion_of: dict[str, str] = {}
    for table in look(unsure):
        for file_id, scan, sample_id in zip(*(table[name].to_pylist() for name in _IDS), strict=True):
            series_of[file_id].add(scan)
            if file_id in portions:
                portion_of[sample_id] = file_id
            first_of_series[scan] = min(sample_id, first_of_series.get(scan, sample_id))
        slices += slices_of(table.filter(pc.equal(table["frames"], 1)))
    several = Counter(chain.from_iterable(series_of.values()))
    series = {
        file_id: named
        for file_id, scans in series_of.items()
        if (named := {scan: first_of_series[scan] for scan in scans if several[scan] > 1})
    }
    if spec.window_source == "file":
        return ReadingPlan(files=[file for file in files if file.sample_id in chosen], series=series)
    notices = list(find_volumes(slices)[2].lines(name_of))
    together, apart = _divide(unsure, series_of, chosen)
    windows: dict[str, dict[str, SliceWindow]] = {}
    if apart:
        windows = _measure(apart, measure, spec.window, portion_of)
        count = len({file.sample_id for file in apart})
        notices.append(
            f"{count} file(s) hold parts of series that are spread too far to be read at once, or of which only "
            f"some files are to be read: they are read twice; the first is '{name_of(apart[0].sample_id)}'"
        )
    group_of = {file.key: number for number, group in enumerate(together) for file in group}
    first_of = {number: group[0].place for number, group in enumerate(together)}
    planned = [
        replace(file, group=group_of.get(file.key), windows=windows.get(file.key))
        for file in files
        if file.sample_id in chosen
    ]
    planned.sort(key=lambda file: file.place if file.group is None else first_of[file.group])
    return ReadingPlan(files=planned, series=series, notices=tuple(notices))


def _divide(
    files: Sequence[SourceFile], series_of: dict[str, set[str]], chosen: set[str]
) -> tuple[list[list[SourceFile]], list[SourceFile]]:
    """Return the groups of files to read together, and the files whose series are read twice.

    Files that share no series with others are in neither.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = name = parent.setdefault(above, above)
        return name

    for scans in series_of.values():
        first, *others = sorted(scans)
        for scan in others:
            parent[root(scan)] = root(first)
    members: dict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        if file.key in series_of:
            members[root(min(series_of[file.key]))].append(file)
    together: list[list[SourceFile]] = []
    apart: list[SourceFile] = []
    for group in members.values():
        is_wanted = [file.sample_id in chosen for file in group]
        if len(group) == 1 or not any(is_wanted):
            continue
        if all(is_wanted) and sum(file.nbytes or 0 for file in group) <= GROUP_NBYTES:
            together.append(group)
        else:
            apart += group
    return together, apart


def _measure(
    files: Sequence[SourceFile], measure: Run, percentiles: tuple[float, float], portion_of: Mapping[str, str]
) -> dict[str, dict[str, SliceWindow]]:
    """Return key of a file or portion → sample id → window of all slices in the files.

    Args:
        files: all files or portions of some series.
        measure: yields their samples without planes.
        percentiles: of a volume, become 0 and 255.
        portion_of: DICOM object → key of the portion that has it, where a file is read in portions.
    """
    slices: list[Slice] = []
    with WaitingHistograms() as histograms:
        for table in measure(files):
            slices += slices_of(table)
            for sample_id, data in histograms_of([table]):
                histograms.add(sample_id, data)
        windows, _ = choose_windows(slices, histograms, percentiles)
    by_file: dict[str, dict[str, SliceWindow]] = defaultdict(dict)
    for sample_id, window in windows.items():
        by_file[portion_of.get(sample_id.partition("#")[0]) or file_of(sample_id)][sample_id] = window
    return by_file


def slices_of(table: pa.Table) -> Iterator[Slice]:
    """Yield the slices in a table of schema `sample.COLUMNS` or `SERIES` whose windows are not known."""
    for row in table.filter(pc.is_valid(table["inverted"])).to_pylist():
        geometry = row["geometry"]
        facts = SliceFacts(
            instance=row["instance"],
            geometry=geometry and tuple(geometry),
            number=row["number"],
            inverted=row["inverted"],
            bright=row.get("bright"),
        )
        yield as_slice(row["sample_id"], row["scan"], row["width"], row["height"], facts)


def histograms_of(tables: Iterable[pa.Table]) -> Iterator[tuple[str, bytes]]:
    """Yield sample id and histogram of the slices in tables of schema `sample.COLUMNS`."""
    for table in tables:
        some = table.filter(pc.is_valid(table["histogram"]))
        yield from zip(some["sample_id"].to_pylist(), some["histogram"].to_pylist(), strict=True)
