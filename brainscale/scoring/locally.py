"""Score in this process, for jobs that are over before Ray would be up."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from brainscale.models import engines
from brainscale.models.graphs import make_graphs
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.reader import plan_files
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import Block, PackedBlock, unpack_blocks
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.scorer import BlockDone, Scorer, request_of
from brainscale.storage.folder import Folder


class LocalRunner:
    """Plans and scores in this process."""

    def __init__(self, job: ScoringJob) -> None:
        self._job = job
        self._options = engines.resolve_engine(job.engine, 0)

    def plan(self, files: Sequence[SourceFile]) -> ReadingPlan:
        """Find the files that share a series."""
        return plan_files(files, request_of(self._job), name_series=not self._job.has_key)

    def score(self, blocks: Iterable[PackedBlock], folder: Folder, identity: Mapping[str, str]) -> Iterator[BlockDone]:
        """Write the parts of blocks, and yield each block once it is done."""
        with self._open_scorer() as scorer:
            yield from scorer.score(_unpack(blocks), folder, identity)

    def predict(self, blocks: Iterable[PackedBlock]) -> Iterator[pa.Table]:
        """Yield the predictions of blocks."""
        with self._open_scorer() as scorer:
            for _, tables in scorer.predict(_unpack(blocks)):
                yield from tables

    def extract(self, blocks: Iterable[PackedBlock]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield sample ids and features of blocks."""
        with self._open_scorer() as scorer:
            yield from scorer.extract(_unpack(blocks))

    def _open_scorer(self) -> Scorer:
        cpus = os.cpu_count() or 1
        graphs = make_graphs(self._job.bundle, self._options, 0)  # no long job is scored here
        return Scorer(self._job, self._options, graphs, threads=cpus, readers=cpus)


def _unpack(blocks: Iterable[PackedBlock]) -> Iterator[Block]:
    return (one for block in blocks for one in unpack_blocks(block.table))
