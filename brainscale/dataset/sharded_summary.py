"""Count what a sharded manifest contains, as `summarise` does: tasks count shards, the driver adds up."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc

from brainscale.config.data_sections import DataConfig
from brainscale.dataset.labels import UnclearLabels, describe_unclear, find_unclear_labels
from brainscale.dataset.manifest import count_values
from brainscale.dataset.patients import REMEDY, describe_patients
from brainscale.dataset.shard_columns import ManifestColumns
from brainscale.dataset.summary import ManifestSummary, count_labels_by, image_sides, measure_sides
from brainscale.reading.sample_ids import split_id
from brainscale.schema import SKIPPED
from brainscale.storage.shards import ShardedTable

COUNTED = ("label", "format", "modality", "image_kind", "orientation")
_COLUMNS = ("sample_id", "error_code", "width", "height", "empty", "burned_in", "patient", "split", "fold", *COUNTED)


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """What one shard contains.

    Attributes:
        samples: number of readable rows.
        codes: error code → number of rows.
        values: column → value → number of readable rows.
        sides: width or height in pixels → number of images.
        empty: number of empty slices.
        burned_in: number of samples whose pixels may show text.
        without_patient: number of readable rows without a known patient.
        files: number of files.
        first_file: id of the first file.
        last_file: id of the last file, which may go on in the next shard.
        assigned: `split` and `fold` → value → label → number of readable rows.
        unclear: samples without a clear label.
    """

    samples: int
    codes: Counter[str]
    values: dict[str, Counter[str]]
    sides: Counter[int]
    empty: int
    burned_in: int
    without_patient: int
    files: int
    first_file: str
    last_file: str
    assigned: dict[str, dict[str, dict[str, int]]]
    unclear: UnclearLabels


def count_shards(columns: ManifestColumns, data: DataConfig) -> list[ShardCounts]:
    """Count what each shard of a manifest contains.

    Args:
        columns: of the manifest.
        data: class names and their folders.
    """
    return list(columns.run(partial(_count_shard, data=data), columns.sources))


def add_counts(columns: ManifestColumns, counts: list[ShardCounts]) -> ManifestSummary:
    """Add up the counts of the shards, and count what needs all rows at once: groups, contents and patients."""
    codes: Counter[str] = sum((count.codes for count in counts), Counter())
    values = {column: dict(sorted(sum((c.values[column] for c in counts), Counter()).items())) for column in COUNTED}
    sides: Counter[int] = sum((count.sides for count in counts), Counter())
    samples = sum(count.samples for count in counts)
    shared_files = sum(one.last_file == other.first_file for one, other in pairwise(counts))
    readable = ~columns.valid("error_code")
    content_sizes = _content_sizes(columns, readable)
    groups = columns.numbers("group")
    _, group_sizes = np.unique(groups[readable], return_counts=True)
    mixed, example = _find_mixed_groups(columns, groups, readable)
    patients = np.unique(columns.numbers("patient")[readable])
    return ManifestSummary(
        files=sum(count.files for count in counts) - shared_files,
        samples=samples,
        skipped={code: n for code, n in sorted(codes.items()) if code in SKIPPED},
        errors={code: n for code, n in sorted(codes.items()) if code not in SKIPPED},
        labels=values["label"],
        formats=values["format"],
        sides_in_pixels=measure_sides(*_sorted_items(sides)),
        empty_slices=sum(count.empty for count in counts),
        modalities=values["modality"],
        image_kinds=values["image_kind"],
        orientations=values["orientation"],
        burned_in=sum(count.burned_in for count in counts),
        patients=int((patients >= 0).sum()),
        samples_without_patient=sum(count.without_patient for count in counts),
        groups=len(group_sizes),
        largest_group=int(group_sizes.max(initial=0)),
        byte_identical_groups=int((content_sizes > 1).sum()),
        byte_identical_copies=samples - len(content_sizes),
        samples_beyond_one_a_group=samples - len(group_sizes),
        groups_with_two_labels=mixed,
        example_of_two_labels=example,
        splits=_add_assigned(counts, "split"),
        folds=_add_assigned(counts, "fold"),
    )


def describe_gaps_of_shards(counts: list[ShardCounts]) -> Iterator[str]:
    """Yield a line on samples without a clear label, and one on those without a known patient, as `describe_gaps`."""
    yield from describe_unclear([count.unclear for count in counts])
    text = describe_patients(sum(c.without_patient for c in counts), sum(c.samples for c in counts))
    if text:
        yield f"{text} {REMEDY}"


def _count_shard(source: ShardedTable, data: DataConfig) -> ShardCounts:
    table = source.read(source.shards[0], _COLUMNS)
    readable = table.filter(pc.is_null(table["error_code"]))
    files = [split_id(sample_id)[0] for sample_id in table["sample_id"].to_pylist()]
    return ShardCounts(
        samples=len(readable),
        codes=Counter(count_values(table, "error_code", drop_null=True)),
        values={column: Counter(count_values(readable, column)) for column in COUNTED},
        sides=Counter(dict(zip(*(part.tolist() for part in np.unique_counts(image_sides(readable))), strict=True))),
        empty=pc.sum(readable["empty"]).as_py() or 0,
        burned_in=pc.sum(readable["burned_in"]).as_py() or 0,
        without_patient=readable["patient"].null_count,
        files=len(set(files)),
        first_file=files[0],
        last_file=files[-1],
        assigned={column: count_labels_by(readable, column) for column in ("split", "fold")},
        unclear=find_unclear_labels(readable, data),
    )


def _content_sizes(columns: ManifestColumns, readable: np.ndarray) -> np.ndarray:
    """Return how often each content occurs among the readable rows, int64 [contents]."""
    frames = columns.numbers("frame") + 1
    contents = (columns.numbers("sha256") + 1) * (int(frames.max(initial=0)) + 1) + frames
    return np.unique_counts(contents[readable]).counts


def _find_mixed_groups(columns: ManifestColumns, groups: np.ndarray, readable: np.ndarray) -> tuple[int, str | None]:
    """Return the number of groups whose samples have different labels, and two samples of one of them."""
    labels = columns.numbers("label")
    rows = np.flatnonzero(readable & (labels >= 0))
    names, inverse = np.unique(groups[rows], return_inverse=True)
    least, most = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1)
    np.minimum.at(least, inverse, labels[rows])
    np.maximum.at(most, inverse, labels[rows])
    is_mixed = least < most
    if not is_mixed.any():
        return 0, None
    first = rows[np.argmax(is_mixed[inverse])]
    second = rows[np.argmax((groups[rows] == groups[first]) & (labels[rows] != labels[first]))]
    return int(is_mixed.sum()), " and ".join(columns.texts("sample_id", np.array([first, second])))


def _add_assigned(counts: list[ShardCounts], column: str) -> dict[str, dict[str, int]]:
    """Return value of the column → label → number of samples, of all shards."""
    totals: dict[str, Counter[str]] = {}
    for count in counts:
        for value, labels in count.assigned[column].items():
            totals.setdefault(value, Counter()).update(labels)
    order = sorted(totals, key=lambda value: (int(value) if column == "fold" else 0, value))
    return {value: dict(sorted(totals[value].items())) for value in order}


def _sorted_items(sides: Counter[int]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(sorted(sides), np.int64)
    return values, np.array([sides[value] for value in values.tolist()], np.int64)
