"""Score in this process, for jobs that are over before Ray would be up."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from brainscale.models import engines
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.reader import plan_files
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import PackedBlock, unpack_blocks
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
        cpus = os.cpu_count() or 1
        network = engines.read_network(self._job.bundle, self._options)
        with Scorer(self._job, self._options, network, threads=cpus, readers=cpus) as scorer:
            yield from scorer.score((one for block in blocks for one in unpack_blocks(block.table)), folder, identity)
