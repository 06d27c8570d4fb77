"""Counts of a manifest: samples, labels, errors, duplicates and splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import counts
from brainscale.reading.sample_ids import split_id
from brainscale.schema import SKIPPED


@dataclass(frozen=True, kw_only=True)
class ManifestSummary:
    """Counts of a manifest.

    Attributes:
        files: files seen, archives as one.
        samples: samples that could be read.
        skipped: code → files that are no image, such as a DICOM report.
        errors: code → samples that could not be read.
        labels: label → samples; `none` without one.
        formats: format → samples.
        sides_in_pixels: smallest, largest and median side of the images.
        empty_slices: slices that show next to nothing.
        patients: known patients.
        groups: groups that a split keeps together.
        largest_group: samples in the largest of them.
        byte_identical_groups: contents that occur more than once.
        byte_identical_copies: samples whose content occurs before.
        samples_beyond_one_a_group: samples less groups.
        groups_with_two_labels: groups whose samples have different labels.
        example_of_two_labels: the first two such samples, or `none`.
        splits: split → label → samples.
        folds: fold → label → samples.
    """

    files: int
    samples: int
    skipped: Mapping[str, int]
    errors: Mapping[str, int]
    labels: Mapping[str, int]
    formats: Mapping[str, int]
    sides_in_pixels: str
    empty_slices: int
    patients: int
    groups: int
    largest_group: int
    byte_identical_groups: int
    byte_identical_copies: int
    samples_beyond_one_a_group: int
    groups_with_two_labels: int
    example_of_two_labels: str
    splits: Mapping[str, Mapping[str, int]]
    folds: Mapping[str, Mapping[str, int]]


def summarise(manifest: pa.Table) -> ManifestSummary:
    """Count the samples, errors, labels, duplicates and splits of a manifest."""
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    codes = counts(manifest, "error_code", drop_null=True)
    contents = _count(readable, ["sha256", "frame"])
    group_sizes = _count(readable, ["group"])
    labelled = readable.filter(pc.is_valid(readable["label"]))
    label_counts = _count(_count(labelled, ["group", "label"]), ["group"])
    two_labels = label_counts.filter(pc.greater(label_counts["n"], 1))
    return ManifestSummary(
        files=len({split_id(sample_id)[0] for sample_id in manifest["sample_id"].to_pylist()}),
        samples=len(readable),
        skipped={code: n for code, n in codes.items() if code in SKIPPED},
        errors={code: n for code, n in codes.items() if code not in SKIPPED},
        labels=counts(readable, "label"),
        formats=counts(readable, "format"),
        sides_in_pixels=_range(readable),
        empty_slices=pc.sum(readable["empty"]).as_py() or 0,
        patients=pc.count_distinct(readable["patient"]).as_py(),
        groups=len(group_sizes),
        largest_group=pc.max(group_sizes["n"]).as_py() or 0,
        byte_identical_groups=len(contents.filter(pc.greater(contents["n"], 1))),
        byte_identical_copies=len(readable) - len(contents),
        samples_beyond_one_a_group=len(readable) - len(group_sizes),
        groups_with_two_labels=len(two_labels),
        example_of_two_labels=_two_labels(labelled, two_labels["group"]),
        splits=_by_label(readable, "split"),
        folds=_by_label(readable, "fold"),
    )


def _range(readable: pa.Table) -> str:
    sides = np.concatenate([readable[name].drop_null().to_numpy() for name in ("width", "height")])
    return f"{sides.min()} to {sides.max()}, median {np.median(sides):g}" if sides.size else "none"


def _count(table: pa.Table, keys: list[str]) -> pa.Table:
    """Rows for each value of the keys, in a column n."""
    return table.group_by(keys).aggregate([([], "count_all")]).rename_columns({"count_all": "n"})


def _two_labels(labelled: pa.Table, groups: pa.ChunkedArray) -> str:
    """The first two samples that are one picture and have different labels."""
    rows = labelled.filter(pc.is_in(labelled["group"], groups)).sort_by("sample_id").to_pylist()
    pairs = ((r["sample_id"], o["sample_id"]) for r in rows for o in rows if _differ(r, o))
    return " and ".join(next(pairs, ("none",)))


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["group"] == other["group"] and one["label"] != other["label"])


def _by_label(readable: pa.Table, column: str) -> dict[str, dict[str, int]]:
    """Side → label → samples."""
    rows = readable.filter(pc.is_valid(readable[column]))
    values = sorted(set(rows[column].to_pylist()))
    return {str(v): counts(rows.filter(pc.equal(rows[column], v)), "label") for v in values}
