"""Count what a manifest contains: samples, labels, errors, duplicates and splits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import DataConfig
from brainscale.dataset.labels import describe_unclear_labels
from brainscale.dataset.manifest import count_values
from brainscale.dataset.patients import REMEDY, describe_unknown_patients
from brainscale.reading.sample_ids import split_id
from brainscale.schema import SKIPPED


@dataclass(frozen=True, kw_only=True)
class ManifestSummary:
    """Counts of a manifest.

    Attributes:
        files: number of files; an archive counts as one.
        samples: number of samples that could be read.
        skipped: code → number of files that contain no image, such as DICOM reports.
        errors: error code → number of samples that could not be read.
        labels: label → number of samples; `none` for samples without a label.
        formats: file format → number of samples.
        sides_in_pixels: smallest, largest and median width or height of the images.
        empty_slices: number of slices that show almost nothing.
        modalities: modality → number of samples; `none`, here and below, for samples whose files do not say.
        image_kinds: original, derived, localizer or secondary_capture → number of samples.
        orientations: orientation → number of samples.
        burned_in: number of samples whose pixels may show text, such as a name.
        patients: number of known patients.
        samples_without_patient: number of samples whose patient is unknown.
        groups: number of groups; a split keeps each group together.
        largest_group: number of samples in the largest group.
        byte_identical_groups: number of contents that occur more than once.
        byte_identical_copies: number of exact duplicates, the first of each content not counted.
        samples_beyond_one_a_group: number of samples minus number of groups.
        groups_with_two_labels: number of groups whose samples have different labels.
        example_of_two_labels: two samples of one group with different labels, if there are any.
        splits: split → label → number of samples.
        folds: fold → label → number of samples.
    """

    files: int
    samples: int
    skipped: Mapping[str, int]
    errors: Mapping[str, int]
    labels: Mapping[str, int]
    formats: Mapping[str, int]
    sides_in_pixels: Mapping[str, float]
    empty_slices: int
    modalities: Mapping[str, int]
    image_kinds: Mapping[str, int]
    orientations: Mapping[str, int]
    burned_in: int
    patients: int
    samples_without_patient: int
    groups: int
    largest_group: int
    byte_identical_groups: int
    byte_identical_copies: int
    samples_beyond_one_a_group: int
    groups_with_two_labels: int
    example_of_two_labels: str | None
    splits: Mapping[str, Mapping[str, int]]
    folds: Mapping[str, Mapping[str, int]]


def summarise(manifest: pa.Table) -> ManifestSummary:
    """Count the samples, errors, labels, duplicates and splits of a manifest."""
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    codes = count_values(manifest, "error_code", drop_null=True)
    contents = _count_rows(readable, ["sha256", "frame"])
    group_sizes = _count_rows(readable, ["group"])
    labelled = readable.filter(pc.is_valid(readable["label"]))
    labels_of_group = _count_rows(_count_rows(labelled, ["group", "label"]), ["group"])
    mixed_groups = labels_of_group.filter(pc.greater(labels_of_group["n"], 1))
    return ManifestSummary(
        files=len({split_id(sample_id)[0] for sample_id in manifest["sample_id"].to_pylist()}),
        samples=len(readable),
        skipped={code: n for code, n in codes.items() if code in SKIPPED},
        errors={code: n for code, n in codes.items() if code not in SKIPPED},
        labels=count_values(readable, "label"),
        formats=count_values(readable, "format"),
        sides_in_pixels=measure_sides(*np.unique_counts(image_sides(readable))),
        empty_slices=pc.sum(readable["empty"]).as_py() or 0,
        modalities=count_values(readable, "modality"),
        image_kinds=count_values(readable, "image_kind"),
        orientations=count_values(readable, "orientation"),
        burned_in=pc.sum(readable["burned_in"]).as_py() or 0,
        patients=pc.count_distinct(readable["patient"]).as_py(),
        samples_without_patient=readable["patient"].null_count,
        groups=len(group_sizes),
        largest_group=pc.max(group_sizes["n"]).as_py() or 0,
        byte_identical_groups=len(contents.filter(pc.greater(contents["n"], 1))),
        byte_identical_copies=len(readable) - len(contents),
        samples_beyond_one_a_group=len(readable) - len(group_sizes),
        groups_with_two_labels=len(mixed_groups),
        example_of_two_labels=_find_label_conflict(labelled, mixed_groups["group"]),
        splits=count_labels_by(readable, "split"),
        folds=count_labels_by(readable, "fold"),
    )


def describe_gaps(manifest: pa.Table, data: DataConfig) -> Iterator[str]:
    """Yield a line for the user on samples without a clear label, and one on those without a known patient."""
    yield from describe_unclear_labels(manifest, data)
    if unknown := describe_unknown_patients(manifest):
        yield f"{unknown} {REMEDY}"


def image_sides(readable: pa.Table) -> np.ndarray:
    """Return the widths and heights of images in pixels."""
    return np.concatenate([readable[name].drop_null().to_numpy() for name in ("width", "height")])


def measure_sides(sides: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Return the smallest, largest and median side of images; nothing where there are no images.

    Args:
        sides: the different sides, sorted.
        counts: how often each occurs.
    """
    if not sides.size:
        return {}
    total = counts.sum()
    low, high = sides[np.searchsorted(np.cumsum(counts), [(total - 1) // 2, total // 2], side="right")]
    median = int(low + high) / 2
    return {
        "smallest": int(sides[0]),
        "largest": int(sides[-1]),
        "median": int(median) if median.is_integer() else median,
    }


def _count_rows(table: pa.Table, keys: list[str]) -> pa.Table:
    """Return the number of rows for each combination of the key columns, in a column `n`."""
    return table.group_by(keys).aggregate([([], "count_all")]).rename_columns({"count_all": "n"})


def _find_label_conflict(labelled: pa.Table, groups: pa.ChunkedArray) -> str | None:
    """Return the ids of the first two samples that are in one group but have different labels, if there are any."""
    rows = labelled.filter(pc.is_in(labelled["group"], groups)).sort_by("sample_id").to_pylist()
    conflicts = (
        f"{first['sample_id']} and {second['sample_id']}"
        for first in rows
        for second in rows
        if first["group"] == second["group"] and first["label"] != second["label"]
    )
    return next(conflicts, None)


def count_labels_by(readable: pa.Table, column: str) -> dict[str, dict[str, int]]:
    """Return value of the column → label → number of samples."""
    rows = readable.filter(pc.is_valid(readable[column]))
    values = sorted(set(rows[column].to_pylist()))
    return {str(value): count_values(rows.filter(pc.equal(rows[column], value)), "label") for value in values}
