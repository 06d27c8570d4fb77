"""Score in this process, where Ray would only cost its start and its memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil

import numpy as np
import pyarrow as pa

from brainscale.config.environment import count_cpus
from brainscale.models import engines
from brainscale.models.graphs import make_graphs
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.reader import plan_files
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import Block, PackedBlock, unpack_blocks
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.scorer import READ_FILES, BlockDone, Scorer, request_of
from brainscale.storage.folder import Folder


class LocalRunner:
    """Plans and scores in this process, within a `with` block.

    Args:
        job: the model, and how to run it.
        rows: approximate number of rows of the job.
    """

    def __init__(self, job: ScoringJob, rows: int = 0) -> None:
        self._job, self._rows = job, rows
        self._options = engines.resolve_engine(job.engine, 0)
        self._scorer: Scorer | None = None

    def __enter__(self) -> "LocalRunner":
        cpus = count_cpus()
        pixels = self._rows * self._job.bundle.info.preprocess.image_size**2
        graphs = make_graphs(self._job.bundle, self._options, pixels / cpus)
        readers = min(cpus, max(1, ceil(self._rows / READ_FILES)))  # few files need few decoders
        self._scorer = Scorer(self._job, self._options, graphs, threads=cpus, readers=readers)
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(*error)
        self._scorer = None

    def plan(self, files: Sequence[SourceFile]) -> ReadingPlan:
        """Find the files that share a series."""
        return plan_files(files, request_of(self._job), name_series=not self._job.has_key)

    def score(self, blocks: Iterable[PackedBlock], folder: Folder, identity: Mapping[str, str]) -> Iterator[BlockDone]:
        """Write the parts of blocks, and yield each block once it is done."""
        yield from self._opened.score(_unpack(blocks), folder, identity)

    def predict(self, blocks: Iterable[PackedBlock]) -> Iterator[pa.Table]:
        """Yield the predictions of blocks."""
        yield from self._opened.predict(_unpack(blocks))

    def extract(self, blocks: Iterable[PackedBlock]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield sample ids and features of blocks."""
        yield from self._opened.extract(_unpack(blocks))

    @property
    def _opened(self) -> Scorer:
        if self._scorer is None:
            raise RuntimeError("LocalRunner is used within its with-block")
        return self._scorer


def _unpack(blocks: Iterable[PackedBlock]) -> Iterator[Block]:
    return (one for block in blocks for one in unpack_blocks(block.table))
