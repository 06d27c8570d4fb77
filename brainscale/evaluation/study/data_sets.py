"""The data sets of a study: indexed once, with the samples whose label is doubtful, and the index that is released."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.from_sources import index_sources
from brainscale.dataset.inclusion import mark_left_out
from brainscale.dataset.manifest import manifest_fingerprint, read_manifest, write_manifest
from brainscale.errors import SourceError, UsageError
from brainscale.evaluation.study.files import StudyFile
from brainscale.hashing import fingerprint
from brainscale.storage.local import make_folder, write_json

RELEASED = ("sha256", "format", "mode", "width", "height", "nbytes", "phash", "head_phash", "label", "group")
"""Columns of a manifest that its released index has too: nothing of a patient, a path, or a picture."""


@dataclass(frozen=True, kw_only=True)
class IndexedData:
    """A data set as its index describes it.

    Attributes:
        name: its name in the study.
        manifest: its samples with labels and groups.
        doubtful: sample ids whose label is doubtful.
    """

    name: str
    manifest: pa.Table
    doubtful: frozenset[str]


def index_data(
    file: StudyFile, name: str, path: str, out: Path, on_notice: Callable[[str], None] = lambda text: None
) -> IndexedData:
    """Index a data set, or read the index that an earlier command made of it.

    Args:
        file: the study.
        name: name of the data set in the study.
        path: where it lies.
        out: folder of all runs.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: it cannot be indexed, or the list of doubtful labels names a sample that it does not have.
    """
    section = file.study.data[name]
    config = _config_for_index(file, name)
    labels = section.labels if section.labels == "folder" else str(Path(path) / section.labels)
    made_from = fingerprint(
        {
            "path": str(Path(path).absolute()),
            "labels": labels,
            "data": config.data.facts(),
            "similarity": config.split.similarity,
        }
    )
    stored = out / "data" / f"{name}-{made_from[:8]}.parquet"
    if stored.is_file():
        manifest = read_manifest(stored)
    else:
        if not Path(path).is_dir():
            raise SourceError(f"{path} is no folder: give the place of {name} with --data {name}=PATH")
        manifest = index_sources([path], config, labels, on_notice=on_notice)
        make_folder(stored.parent)
        write_manifest(manifest, stored)
        write_json(stored.with_suffix(".json"), {"path": str(Path(path).absolute()), "data": name})
    manifest = mark_left_out(manifest, config.data)
    return IndexedData(name=name, manifest=manifest, doubtful=_doubtful(file, name, manifest))


def _config_for_index(file: StudyFile, name: str) -> Config:
    """Return the configuration of the first row that uses a data set: its classes, preprocessing and limits."""
    for part in file.study.parts.values():
        if name in (part.data, part.test_data):
            return file.config_of(part, next(iter(part.rows.values())))
    return Config()


def _doubtful(file: StudyFile, name: str, manifest: pa.Table) -> frozenset[str]:
    listed = read_doubtful(file, name)
    known = set(manifest["sample_id"].to_pylist())
    if unknown := sorted(set(listed) - known):
        raise UsageError(
            f"{file.study.data[name].doubtful} names '{unknown[0]}', which {name} does not have: correct the list"
        )
    return frozenset(listed)


def read_doubtful(file: StudyFile, name: str) -> Mapping[str, str]:
    """Return sample id → why its label is doubtful; empty for a data set without a list.

    Raises:
        UsageError: the list is missing, or has no column sample_id or reason.
    """
    listed = file.study.data[name].doubtful
    if listed is None:
        return {}
    path = file.path.parent / listed
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            return {row["sample_id"]: row["reason"] for row in csv.DictReader(lines)}
    except (OSError, KeyError) as error:
        raise UsageError(f"{path} is no list of doubtful labels ({error}): it needs sample_id and reason") from None


def released_ids(manifest: pa.Table, *, hide_ids: bool) -> pa.ChunkedArray:
    """Return the names of samples in released tables.

    Args:
        manifest: the samples.
        hide_ids: whether samples are named by the first 16 digits of their sha256, as their ids hold a patient's; the
            second of two equal files has -2 behind it.
    """
    if not hide_ids:
        return manifest["sample_id"]
    hashes = pc.utf8_slice_codeunits(manifest["sha256"], 0, 16)
    seen: Counter[str] = Counter()
    order = pc.sort_indices(manifest["sample_id"]).to_pylist()
    names = hashes.to_pylist()
    for row in order:
        seen[names[row]] += 1
        names[row] += f"-{count}" if (count := seen[names[row]]) > 1 else ""
    return pa.chunked_array([pa.array(names, pa.string())])


def released_index(data: IndexedData, folds: Mapping[str, pa.Table], *, hide_ids: bool) -> pa.Table:
    """Return the index of a data set as it may be released: no image, no path, no patient.

    Args:
        data: the data set.
        folds: name of a column → sample_id and fold of a division of the data.
        hide_ids: as `released_ids`.
    """
    manifest = data.manifest.filter(pc.is_null(data.manifest["error_code"])).sort_by("sample_id")
    ids = manifest["sample_id"]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "sample_id": released_ids(manifest, hide_ids=hide_ids),
        **{name: manifest[name] for name in RELEASED},
        "doubtful": pa.array([sample in data.doubtful for sample in ids.to_pylist()]),
    }
    for name, table in folds.items():
        columns[name] = table["fold"].take(pc.index_in(ids, table["sample_id"].combine_chunks()))
    metadata = {"data": data.name, "manifest_sha256": manifest_fingerprint(data.manifest)}
    return pa.table(columns).replace_schema_metadata(metadata)
