"""Predict the rows of a manifest: in this process where Ray would only cost its start, or else on Ray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale import progress
from brainscale.dataset.columns import replace_column
from brainscale.dataset.manifest import without_signatures
from brainscale.models.bundle import Bundle
from brainscale.models.engines import EngineOptions
from brainscale.models.processor import has_gpu
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.keys import read_key
from brainscale.reading.reader import require_reachable
from brainscale.reading.sample_ids import IN_FILE
from brainscale.reading.small_jobs import MAX_FILES, is_ray_near
from brainscale.schema import PREDICTIONS
from brainscale.scoring.blocks import BLOCK_FILES, BlockFile, PackedBlock, make_block, pack_block, version_of
from brainscale.scoring.locally import LocalRunner
from brainscale.scoring.predictions import ScoringJob

MAX_LOCAL_ROWS = 10_000
"""Rows up to which the one engine of this process is enough on any number of CPUs."""
PART_FILES = 64 * BLOCK_FILES
"""Files of an evaluation that are made ready at a time."""


class RowRunner(Protocol):
    """Predicts blocks of files."""

    def predict(self, blocks: Iterator[PackedBlock]) -> Iterator[pa.Table]:
        """Yield the predictions of blocks, in any order."""

    def extract(self, blocks: Iterator[PackedBlock]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield sample ids and features of blocks, in any order."""


def needs_ray(rows: int, engine: str = "auto", workers: int | None = 1) -> bool:
    """Return whether predicting is a job for Ray: many rows, several engines, or a Ray that is connected.

    Args:
        rows: number of rows.
        engine: auto, onnx or torch, which a GPU may run.
        workers: maximum number of engines; None for as many as there is room for.
    """
    if is_ray_near() or engine == "torch" or (workers or 1) > 1 or rows > MAX_LOCAL_ROWS:
        return True
    return rows > MAX_FILES and has_gpu()


def predict_rows(
    rows: pa.Table,
    bundle: Bundle,
    engine: str = "auto",
    workers: int | None = 1,
    on_notice: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """Return the predictions of the rows of a manifest, with its labels, series and patients, sorted by sample_id.

    Args:
        rows: rows of a manifest.
        bundle: the model.
        engine: auto, onnx or torch.
        workers: maximum number of engines; None for as many as there is room for.
        on_notice: called with a message if nodes are being waited for.
    """
    with _open_runner(bundle, len(rows), engine, workers, on_notice) as runner:
        tables = runner.predict(blocks_of(rows, bundle))
        parts = list(progress.each(tables, "predicting", len(rows), "samples", len))
    table = pa.concat_tables([PREDICTIONS.empty_table(), *parts]).sort_by("sample_id")
    require_reachable(table)
    row_of = pc.index_in(table["sample_id"], rows["sample_id"].combine_chunks())
    for name in ("label", "scan"):
        table = replace_column(table, name, rows[name].take(row_of))
    return table


def extract_features(rows: pa.Table, bundle: Bundle) -> tuple[list[str], np.ndarray]:
    """Return the ids of the rows of a manifest that can be read, sorted, and their features, float32 [N, D]."""
    with _open_runner(bundle, len(rows), "auto", 1, lambda text: None) as runner:
        extracted = runner.extract(blocks_of(rows, bundle))
        some = list(progress.each(extracted, "extracting features", len(rows), "samples", lambda one: len(one[0])))
    ids = [sample_id for names, _ in some for sample_id in names]
    if not ids:
        return [], np.empty((0, 0), np.float32)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [ids[i] for i in order], np.concatenate([features for _, features in some])[order]


@contextmanager
def _open_runner(
    bundle: Bundle, rows: int, engine: str, workers: int | None, on_notice: Callable[[str], None]
) -> Iterator[RowRunner]:
    options, key = EngineOptions(name=engine), read_key(None).secret
    job = ScoringJob(bundle=bundle, threshold=bundle.info.threshold, engine=options, workers=workers, key=key)
    if not needs_ray(rows, engine, workers):
        with LocalRunner(job, rows) as runner:
            yield runner
        return
    from brainscale.cluster.session import session  # these import Ray
    from brainscale.scoring.on_ray import RayRunner

    with session(workers):
        yield RayRunner(job, rows, on_notice)


def blocks_of(rows: pa.Table, bundle: Bundle) -> Iterator[PackedBlock]:
    """Yield the files of a manifest in blocks of `BLOCK_FILES`, made while they are wanted: all would fill the memory.

    Args:
        rows: rows of a manifest.
        bundle: the model that they are for.

    Raises:
        ManifestError: as `files_of_manifest` raises, which sees `PART_FILES` at a time.
    """
    rows = without_signatures(rows)
    file_ids = pc.replace_substring_regex(rows["sample_id"], IN_FILE, "")
    rows = rows.append_column("file", file_ids).sort_by([("file", "ascending"), ("sample_id", "ascending")])
    file_ids = rows["file"]
    is_other = pc.not_equal(file_ids.slice(1), file_ids.slice(0, max(0, len(rows) - 1)))
    starts = 1 + np.flatnonzero(is_other.to_numpy())
    for start, end in pairwise([0, *starts[PART_FILES - 1 :: PART_FILES].tolist(), len(rows)]):
        files = files_of_manifest(rows.slice(start, end - start), bundle.info.preprocess)
        named = [BlockFile(file=file, name=file.sample_id, version=version_of(file), uri=file.uri) for file in files]
        for first in range(0, len(named), BLOCK_FILES):
            yield pack_block(make_block(named[first : first + BLOCK_FILES], {}))
