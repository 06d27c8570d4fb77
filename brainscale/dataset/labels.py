"""Labels of samples from folder names, and what to say of samples without a clear one."""

from collections.abc import Iterator, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import DataConfig
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


def describe_unclear_labels(manifest: pa.Table, data: DataConfig) -> Iterator[str]:
    """Yield a line on samples without a label, and one on those below folders of two classes, where there are any.

    Args:
        manifest: samples with labels; those with an error are not counted.
        data: class names and their folders.
    """
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    ids, labels = readable["sample_id"].to_pylist(), readable["label"].to_pylist()
    unlabelled = [sample_id for sample_id, label in zip(ids, labels, strict=True) if label is None]
    if unlabelled:
        yield (
            f"{len(unlabelled)} of {len(ids)} sample(s) have no label, the first of them '{unlabelled[0]}': training "
            "and evaluation leave them out. Use a label file, or add the names of their folders to data.classes."
        )
    ambiguous = [
        (sample_id, classes)
        for sample_id, label, classes in zip(ids, labels, find_folder_labels(ids, data), strict=True)
        if len(classes) > 1 and label == classes[0]
    ]
    if ambiguous:
        sample_id, classes = ambiguous[0]
        yield (
            f"{len(ambiguous)} of {len(ids)} sample(s) are in folders of different classes, the first of them "
            f"'{sample_id}' ({' and '.join(classes)}): the nearest folder is taken. If that is wrong, use a label file."
        )
