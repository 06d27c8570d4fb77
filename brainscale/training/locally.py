"""Train without Ray: workers on the CPUs of this machine, whose planes fit in memory.

A worker is a process of its own: what makes torch deterministic and keeps its buffers stays out of the user's
process, and workers that are killed are started again from the last checkpoint, as those on Ray are.
"""

import mmap
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.environment import count_cpus
from brainscale.config.sections import Config
from brainscale.dataset.manifest import without_signatures
from brainscale.models.processor import has_gpu
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample import view_planes
from brainscale.reading.small_jobs import is_ray_near, read_here
from brainscale.storage.workspace import Workspace
from brainscale.training.attempts import clear_leftovers, run_with_restarts
from brainscale.training.machine import GIB, read_memory
from brainscale.training.pace import ReportStep
from brainscale.training.planes import read_unchanged
from brainscale.training.shared_planes import SharedPlanes
from brainscale.training.worker import TrainingJob
from brainscale.training.worker_process import WorkerProcess, train_together
from brainscale.training.workers import count_workers, set_workers

MAX_NBYTES = 2 * GIB
"""Bytes of decoded planes at most: more take long enough that starting Ray does not matter."""
MEMORY_SHARE = 0.25
"""Share of this machine's memory that decoded planes may take."""


def can_train_here(config: Config) -> bool:
    """Return whether a run may do without Ray: CPUs for its workers, no GPU, and no Ray that is connected or asked for.

    Args:
        config: configuration of the run.
    """
    resources = config.resources
    asks_for_ray = resources.ray == "always" or resources.object_store_gib is not None
    return (
        not asks_for_ray
        and count_workers(config) * resources.cpus_per_worker <= count_cpus()
        and not is_ray_near()
        and (resources.device == "cpu" or (resources.device == "auto" and not has_gpu()))
    )


def planes_fit_here(samples: int, config: Config) -> bool:
    """Return whether so many decoded planes fit in the memory of this machine, beside everything else."""
    return samples * config.data.image_size**2 <= min(MAX_NBYTES, MEMORY_SHARE * read_memory())


@dataclass(frozen=True, kw_only=True)
class DecodedPlanes:
    """The planes of a run, decoded.

    Attributes:
        descriptor: of the file that they are in.
        row_of: sample id → its plane.
    """

    descriptor: int
    row_of: Mapping[str, int]

    def locate(self, sample_ids: Sequence[str]) -> SharedPlanes:
        """Return the planes of the given samples, in their order."""
        rows = np.array([self.row_of[i] for i in sample_ids], np.int64)
        return SharedPlanes(descriptor=self.descriptor, count=len(self.row_of), rows=rows)


class LocalTrainer:
    """Keeps the planes of a run in memory, and trains in processes beside this one. Ends with the `with` block.

    Args:
        config: configuration of the run.
    """

    on_gpu = False

    def __init__(self, config: Config) -> None:
        self.config = set_workers(config, count_workers(config))
        self._planes = _open_memory()
        self._workers: list[WorkerProcess] = []  # that have begun, and have no job yet

    def __enter__(self) -> "LocalTrainer":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.close()
        self._planes.close()

    def has_room(self, manifest: pa.Table) -> bool:
        """Return whether the planes of a manifest fit in memory."""
        return planes_fit_here(
            pc.sum(pc.is_in(manifest["split"], pa.array(["train", "val"]))).as_py() or 0, self.config
        )

    def begin(self) -> None:
        """Start the workers, which load their libraries while this process prepares the data."""
        while len(self._workers) < count_workers(self.config):
            self._workers.append(WorkerProcess((self._planes.fileno(),)))

    def store(self, splits: Sequence[pa.Table], config: Config) -> DecodedPlanes:
        """Decode the planes of the rows of a manifest, a block of files in each thread at a time.

        Raises:
            ManifestError: a file changed after it was indexed, can no longer be read, or has a window of another kind.
        """
        rows, side = without_signatures(pa.concat_tables(splits)), config.data.image_size
        request = ReadRequest(preprocess=config.data.preprocess, limits=config.limits)
        files = files_of_manifest(rows, request.preprocess)
        ids = rows["sample_id"].combine_chunks()
        os.ftruncate(self._planes.fileno(), len(rows) * side**2)
        memory = mmap.mmap(self._planes.fileno(), len(rows) * side**2)
        planes = np.frombuffer(memory, np.uint8).reshape(len(rows), side, side)
        for some, column in read_unchanged(read_here(files, partial(read_tables, request=request)), rows):
            planes[pc.index_in(some, ids).to_numpy()] = view_planes(column, side)
        return DecodedPlanes(
            descriptor=self._planes.fileno(), row_of={sample_id: row for row, sample_id in enumerate(ids.to_pylist())}
        )

    def fit(self, job: TrainingJob, run: Workspace, on_restart: Callable[[str], None], report_step: ReportStep) -> None:
        """Run the training loop in the workers, and start all of them again when one fails.

        Raises:
            BrainscaleError: training cannot continue; the message is one line with the reason.
        """
        clear_leftovers(run)
        try:
            run_with_restarts(lambda: self._attempt(job, report_step), job.config.resources.restarts, on_restart)
        finally:
            os.ftruncate(self._planes.fileno(), 0)  # what follows needs the memory, and no planes
            clear_leftovers(run)

    def _attempt(self, job: TrainingJob, report_step: ReportStep) -> None:
        """Train from the latest checkpoint, in the processes that have begun or in new ones."""
        self.begin()
        with ExitStack() as stack:
            workers = [stack.enter_context(worker) for worker in self._workers]
            self._workers = []
            train_together(workers, job, report_step)


def _open_memory() -> IO[bytes]:
    """Return a file without a name: in memory, or where the system has no such files, on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("brainscale-planes"), "r+b")
    return tempfile.TemporaryFile()
