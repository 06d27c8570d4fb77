"""Manifests of real files, made without Ray."""

from pathlib import Path

import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.groups import assign_groups
from brainscale.dataset.labels import choose_folder_labels
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.schema import MANIFEST


def index_folder(folder: Path) -> pa.Table:
    """The manifest of a folder, with labels of folders and groups."""
    data = Config().data
    request = ReadRequest(preprocess=data.preprocess, planes=False, hashes=True, key=b"k" * 32)
    rows = [{name: getattr(s, name, None) for name in MANIFEST.names} for s in read_samples(folder, request)]
    labels = choose_folder_labels([row["sample_id"] for row in rows], data)
    rows = [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
    return assign_groups(pa.Table.from_pylist(rows, schema=MANIFEST).sort_by("sample_id"))
