"""Train on Ray: on the one that is connected, or on a local one that is started for the run."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pyarrow as pa

from brainscale.cluster.capacity import require_capacity, require_shared
from brainscale.cluster.session import session
from brainscale.config.sections import Config
from brainscale.reading.on_ray import READ_CPUS
from brainscale.storage.workspace import Workspace
from brainscale.training.pace import ReportStep
from brainscale.training.plane_blocks import StreamedBlocks
from brainscale.training.plane_store import StoredPlanes, store_planes
from brainscale.training.worker import TrainingJob
from brainscale.training.worker_group import fit
from brainscale.training.workers import choose_workers, count_workers, resources_per_worker, uses_gpu


class RayTrainer:
    """Keeps the planes of a run in Ray's object stores, and trains on a group of workers. Ends with the `with` block.

    Args:
        config: configuration of the run.
        locations: paths and addresses that the run reads and writes.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: Ray does not answer, can never hold the workers, or a node cannot read one of the locations.
    """

    def __init__(self, config: Config, locations: Sequence[str | None], on_notice: Callable[[str], None]) -> None:
        resources = config.resources
        self._on_notice = on_notice
        with ExitStack() as stack:
            workers = None if resources.workers == "auto" else resources.workers
            stack.enter_context(session(workers, resources.object_store_gib))
            require_shared(locations, resources.shared)
            self.config = choose_workers(config, on_notice)
            self._require_capacity()
            self.on_gpu = uses_gpu(self.config)
            self._session = stack.pop_all()

    def __enter__(self) -> "RayTrainer":
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def has_room(self, manifest: pa.Table) -> bool:
        """Return True: a set that does not fit is streamed; refuse files that not every node can read."""
        require_shared(manifest["uri"].to_pylist(), self.config.resources.shared)
        return True

    def begin(self) -> None:
        """Do nothing: Ray Train starts its workers when they have their work."""

    def store(self, splits: Sequence[pa.Table], config: Config) -> StoredPlanes:
        """Decode the planes of the rows of a manifest, or prepare to; see `store_planes`."""
        planes = store_planes(splits, config, self._on_notice)
        if isinstance(planes.blocks, StreamedBlocks):  # which are decoded while the workers have their CPUs
            self._require_capacity(READ_CPUS)
        return planes

    def fit(self, job: TrainingJob, run: Workspace, on_restart: Callable[[str], None], report_step: ReportStep) -> None:
        """Train to the end; see `worker_group.fit`."""
        fit(job, run, on_restart, report_step)

    def _require_capacity(self, reading_cpus: float = 0) -> None:
        config = self.config
        if waiting := require_capacity(count_workers(config), resources_per_worker(config), reading_cpus):
            self._on_notice(waiting)
