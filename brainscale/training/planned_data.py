"""What a training would read: the samples of a manifest by split and label, or the files of a source."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.manifest import count_values, is_manifest, without_signatures
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.pace import READ_FILES
from brainscale.reading.small_jobs import MAX_FILES, is_ray_near, is_small
from brainscale.reading.sources import SourceFile, walk_files
from brainscale.training.samples import count_left_out, prepare_manifest

SPLITS_READ = ("train", "val")
"""Splits that training reads."""


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """One split.

    Attributes:
        samples: number of samples.
        groups: number of groups: samples of one patient, copies and near duplicates.
        labels: class → number of samples.
    """

    samples: int
    groups: int
    labels: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """What is read.

    Attributes:
        location: path or address of the source or the manifest.
        is_known: whether samples and splits are known: those of a manifest, and of a source that is small enough to be
            indexed for the plan.
        files: number of files that are read, of the training and the validation split if they are known.
        nbytes: their size, as far as it is known.
        splits: split → its samples.
        left_out: reason → number of samples in no split.
    """

    location: str
    is_known: bool
    files: int
    nbytes: int
    splits: Mapping[str, SplitCounts] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def count(self, split: str) -> int:
        """Return the number of samples of a split."""
        return self.splits[split].samples if split in self.splits else 0

    def count_read(self) -> int:
        """Return the number of samples that training reads."""
        return sum(map(self.count, SPLITS_READ))


def plan_data(
    data: str, config: Config, on_notice: Callable[[str], None] = lambda text: None
) -> tuple[pa.Table | None, DataPlan]:
    """Return the manifest of a run and what it holds; no manifest for a source that takes long to index.

    Raises:
        BrainscaleError: the data cannot be used for training.
    """
    if not can_open(data):
        return None, _count_files(data)
    manifest = prepare_manifest(data, config, on_notice)
    return manifest, describe_data(data, manifest, config)


def can_open(data: str) -> bool:
    """Return whether a plan knows the samples: data is a manifest, or a source that is indexed without Ray."""
    if is_manifest(data):
        return True
    return not is_ray_near() and is_small(list(islice(walk_files([data]), MAX_FILES + 1)))


def _count_files(data: str) -> DataPlan:
    files = nbytes = 0
    for file in walk_files([data]):
        files, nbytes = files + 1, nbytes + (file.nbytes or 0)
    return DataPlan(location=data, is_known=False, files=files, nbytes=nbytes)


def describe_data(data: str, manifest: pa.Table, config: Config) -> DataPlan:
    """Return what a manifest with splits holds.

    Raises:
        ManifestError: slices of DICOM series would need other windows than those of the manifest.
    """
    files = files_of_split(manifest, SPLITS_READ, config)
    found = [split for split in ("train", "val", "test") if pc.any(pc.equal(manifest["split"], split)).as_py()]
    splits = {split: manifest.filter(pc.equal(manifest["split"], split)) for split in found}
    return DataPlan(
        location=data,
        is_known=True,
        files=len(files),
        nbytes=sum(file.nbytes or 0 for file in files),
        splits={split: count_split(rows) for split, rows in splits.items()},
        left_out=count_left_out(manifest),
    )


def count_split(rows: pa.Table) -> SplitCounts:
    """Return the counts of one split."""
    labels, groups = count_values(rows, "label"), pc.count_distinct(rows["group"]).as_py()
    return SplitCounts(samples=len(rows), groups=groups, labels=labels)


def files_of_split(manifest: pa.Table, splits: Iterable[str], config: Config) -> list[SourceFile]:
    """Return the files that hold the samples of some splits."""
    rows = manifest.filter(pc.is_in(manifest["split"], pa.array(list(splits), pa.string())))
    return files_of_manifest(without_signatures(rows), config.data.preprocess)


def list_files_to_read(data: str, manifest: pa.Table | None, config: Config) -> Iterable[SourceFile]:
    """Return files of a run to measure reading with: some of a manifest's, from its whole length, or a source's."""
    if manifest is None:
        return walk_files([data])
    files = files_of_split(manifest, SPLITS_READ, config)
    return files[:: max(1, len(files) // READ_FILES)]
