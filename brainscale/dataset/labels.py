"""Labels of samples from folder names, and what to say of samples without a clear one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import DataConfig
from brainscale.reading.sample_ids import split_folders


def find_folder_labels(sample_ids: Sequence[str], data: DataConfig) -> list[list[str]]:
    """Return the classes that the folders and archives above each sample name, the nearest first.

    Args:
        sample_ids: ids of the samples.
        data: class names and their folders.
    """
    label_of = cache(data.label)
    classes_above = cache(
        lambda folders: list(dict.fromkeys(filter(None, (label_of(folder) for folder in reversed(folders)))))
    )
    return [classes_above(tuple(split_folders(sample_id)[0])) for sample_id in sample_ids]


def choose_folder_labels(sample_ids: Sequence[str], data: DataConfig) -> list[str | None]:
    """Return the class of the nearest folder or archive above each sample that is named after one, or None."""
    return [next(iter(classes), None) for classes in find_folder_labels(sample_ids, data)]


@dataclass(frozen=True, kw_only=True)
class UnclearLabels:
    """Samples without a label, and those below folders of two classes.

    Attributes:
        samples: number of readable samples.
        unlabelled: number of those without a label.
        first_unlabelled: id of the first of them.
        ambiguous: number of those below folders of several classes that have the nearest one.
        first_ambiguous: id of the first of them.
        classes: the classes of its folders.
    """

    samples: int
    unlabelled: int = 0
    first_unlabelled: str = ""
    ambiguous: int = 0
    first_ambiguous: str = ""
    classes: Sequence[str] = ()


def find_unclear_labels(readable: pa.Table, data: DataConfig) -> UnclearLabels:
    """Count the samples without a clear label.

    Args:
        readable: samples without an error.
        data: class names and their folders.
    """
    ids, labels = readable["sample_id"].to_pylist(), readable["label"].to_pylist()
    unlabelled = [sample_id for sample_id, label in zip(ids, labels, strict=True) if label is None]
    ambiguous = [
        (sample_id, classes)
        for sample_id, label, classes in zip(ids, labels, find_folder_labels(ids, data), strict=True)
        if len(classes) > 1 and label == classes[0]
    ]
    first, classes = ambiguous[0] if ambiguous else ("", [])
    return UnclearLabels(
        samples=len(ids),
        unlabelled=len(unlabelled),
        first_unlabelled=unlabelled[0] if unlabelled else "",
        ambiguous=len(ambiguous),
        first_ambiguous=first,
        classes=classes,
    )


def describe_unclear(parts: Sequence[UnclearLabels]) -> Iterator[str]:
    """Yield a line on samples without a label, and one on those below folders of two classes, where there are any.

    Args:
        parts: of one manifest, in its order.
    """
    samples, unlabelled = sum(part.samples for part in parts), [part for part in parts if part.unlabelled]
    if unlabelled:
        yield (
            f"{sum(part.unlabelled for part in unlabelled)} of {samples} sample(s) have no label, the first of them "
            f"'{unlabelled[0].first_unlabelled}': training and evaluation leave them out. Use a label file, or add the "
            "names of their folders to data.classes."
        )
    ambiguous = [part for part in parts if part.ambiguous]
    if ambiguous:
        yield (
            f"{sum(part.ambiguous for part in ambiguous)} of {samples} sample(s) are in folders of different classes, "
            f"the first of them '{ambiguous[0].first_ambiguous}' ({' and '.join(ambiguous[0].classes)}): the nearest "
            "folder is taken. If that is wrong, use a label file."
        )


def describe_unclear_labels(manifest: pa.Table, data: DataConfig) -> Iterator[str]:
    """Yield what `describe_unclear` says of one manifest.

    Args:
        manifest: samples with labels; those with an error are not counted.
        data: class names and their folders.
    """
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    return describe_unclear([find_unclear_labels(readable, data)])
