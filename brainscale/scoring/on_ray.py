"""Run scoring on Ray: one actor for each engine, which reads, computes and writes whole blocks.

The driver hands out blocks as the engines ask for them, as many at a time as an engine does in some seconds. Planes
and predictions never leave the node that makes them.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from brainscale.cluster import autoscaler
from brainscale.cluster.capacity import (
    can_have_gpus,
    count_cpus,
    count_cpus_beside_gpu,
    list_nodes,
    require_capacity,
)
from brainscale.cluster.placement import Engines, plan_engines
from brainscale.cluster.telemetry import ScoringMeter
from brainscale.errors import RERUN, BrainscaleError, ClusterError, first_line
from brainscale.models import engines
from brainscale.models.engines import EngineOptions
from brainscale.models.graphs import make_graphs
from brainscale.reading.on_ray import plan_parallel
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.sources import SourceFile
from brainscale.scoring.blocks import BLOCK_FILES, PackedBlock, unpack_blocks
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.scorer import BlockDone, Scorer, request_of
from brainscale.storage.folder import Folder

TASK_SECONDS = 5.0
"""Seconds of work that an engine gets at a time, once its speed is known."""
QUEUED = 2
"""Tasks of an engine at a time: it must not wait for the driver."""
MAX_RESTARTS = 4
"""Times that an engine may die and start again."""
GPU_WORTH_ROWS = 10_000
"""Rows from which on an autoscaler is asked for GPU nodes."""


class RayRunner:
    """Plans and scores on the connected Ray."""

    def __init__(self, job: ScoringJob, rows: int, on_notice: Callable[[str], None]) -> None:
        """Choose the engine.

        Args:
            job: the model, and how to run it.
            rows: approximate number of rows of the job.
            on_notice: called with each message for the user.
        """
        self._job, self._rows, self._on_notice = job, rows, on_notice
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        wants_gpu = job.engine.name != "onnx" and (has_gpus or rows >= GPU_WORTH_ROWS or job.engine.name == "torch")
        self._options = engines.resolve_engine(job.engine, float(wants_gpu and can_have_gpus()))
        if (note := engines.describe_slow_choice(self._options)) is not None:
            on_notice(note)

    def plan(self, files: Sequence[SourceFile]) -> ReadingPlan:
        """Find the files that share a series."""
        return plan_parallel(files, request_of(self._job), name_series=not self._job.has_key)

    def score(self, blocks: Iterable[PackedBlock], folder: Folder, identity: Mapping[str, str]) -> Iterator[BlockDone]:
        """Write the parts of blocks, and yield each block once it is done.

        Raises:
            OutputError: a part cannot be written.
            ClusterError: Ray stopped during the job.
        """
        yield from self._run(blocks, lambda actor, data: actor.score.remote(data, folder, dict(identity)))

    def predict(self, blocks: Iterable[PackedBlock]) -> Iterator[pa.Table]:
        """Yield the predictions of blocks, in any order."""
        yield from self._run(blocks, lambda actor, data: actor.predict.remote(data))

    def extract(self, blocks: Iterable[PackedBlock]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield sample ids and features of blocks, in any order."""
        yield from self._run(blocks, lambda actor, data: actor.extract.remote(data))

    def _run(self, blocks: Iterable[PackedBlock], submit: Callable[[Any, bytes], Any]) -> Iterator[Any]:
        starters = self._plan_pool()
        pool = _Pool(starters, self._job.min_workers or len(starters))
        try:
            yield from pool.run(blocks, submit)
        except RayTaskError as error:  # its text is the engine's traceback
            if isinstance(error.cause, BrainscaleError):
                raise error.cause from None
            raise
        except RayError as error:
            raise ClusterError(f"Ray stopped during this job ({first_line(error)}): {RERUN}") from error
        finally:
            pool.close()

    def _plan_pool(self) -> list[Callable[[], Any]]:
        """Return functions that start the engines, the first of them at once and the others while work waits."""
        job, options = self._job, self._options
        placement = self._place(options)
        if job.workers is None and autoscaler.is_available():
            self._on_notice(
                f"scoring with {placement.workers} engine(s) on the running nodes; "
                "use --workers and --cpus-per-worker to let the cluster add nodes"
            )
        if waiting := require_capacity(placement.workers, _resources(placement, options)):
            self._on_notice(waiting)
        starters = [self._starter(placement, options)] * placement.workers
        if options.on_gpu and job.workers is None and job.engine.name == "auto" and not options.needs_torch:
            starters += self._cpu_starters(len(starters))
        return starters

    def _cpu_starters(self, gpus: int) -> list[Callable[[], Any]]:
        """Return the engines on the nodes without a GPU, which score beside the GPUs."""
        nodes = [size for size in list_nodes(without_gpus=True) if size.cpus]
        if not nodes:
            return []
        options = engines.resolve_engine(self._job.engine, 0)
        placement = plan_engines(nodes, cpus=self._job.cpus_per_worker, blocks=ceil(self._rows / BLOCK_FILES))
        self._on_notice(f"scoring on {gpus} GPU(s), and with {placement.workers} engine(s) on nodes without one")
        return [self._starter(placement, options)] * placement.workers

    def _place(self, options: EngineOptions) -> Engines:
        """Return how many engines to run: one for each GPU, or as many as the CPUs of the nodes allow."""
        job, blocks = self._job, ceil(self._rows / BLOCK_FILES)
        if not options.on_gpu:
            return plan_engines(list_nodes(), workers=job.workers, cpus=job.cpus_per_worker, blocks=blocks)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        cpus = job.cpus_per_worker or count_cpus_beside_gpu()
        return Engines(workers=job.workers or max(1, min(gpus, blocks)), threads=cpus, cpus=float(cpus))

    def _starter(self, placement: Engines, options: EngineOptions) -> Callable[[], Any]:
        resources = _resources(placement, options)
        pixels = self._rows * self._job.bundle.info.preprocess.image_size**2
        graphs = ray.put(
            make_graphs(self._job.bundle, options, pixels / max(1.0, ray.cluster_resources().get("CPU", 1)))
        )
        settings = {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS, "num_cpus": resources["CPU"]}
        settings["num_gpus"] = resources.get("GPU", 0)
        actor = ray.remote(EngineActor).options(**settings)
        return lambda: actor.remote(self._job, options, graphs, placement.threads)


def _resources(placement: Engines, options: EngineOptions) -> dict[str, float]:
    return {"CPU": placement.cpus, **({"GPU": 1.0} if options.on_gpu else {})}


class _Pool:
    """Engines, each with as much work at a time as it does in some seconds."""

    def __init__(self, starters: Sequence[Callable[[], Any]], at_once: int) -> None:
        self._starters = list(starters)
        self._actors: list[Any] = []
        self._starting: dict[Any, Any] = {}  # sign that an engine is ready → engine
        self._queued: dict[Any, int] = {}
        for _ in range(min(at_once, len(starters))):
            self._start()
        self._speed: dict[Any, float] = {}  # engine → blocks a second
        self._running: dict[Any, tuple[Any, int, float]] = {}  # task → engine, blocks, when it was given

    def run(self, blocks: Iterable[PackedBlock], submit: Callable[[Any, bytes], Any]) -> Iterator[Any]:
        """Give blocks to engines that are ready, and yield what each task returns."""
        left = iter(blocks)
        work = self._next(left, 1)
        while work or self._running:
            actor = self._free_actor()
            if work and actor is not None:
                self._running[submit(actor, _to_bytes(work))] = (
                    actor,
                    len(work),
                    time.monotonic(),
                )
                self._queued[actor] += 1
                work = self._next(left, self._bundle())
                continue
            if work and self._starters and not self._starting:
                self._start()
            done, _ = ray.wait([*self._running, *self._starting], num_returns=1)
            for task in done:
                if actor := self._starting.pop(task, None):
                    ray.get(task)
                    self._queued[actor] = 0
                    continue
                actor, count, given = self._running.pop(task)
                self._queued[actor] -= 1
                self._note_speed(actor, count, time.monotonic() - given)
                yield from ray.get(task)

    def _start(self) -> None:
        actor = self._starters.pop(0)()
        self._actors.append(actor)
        self._starting[actor.get_ready.remote()] = actor
        self._queued[actor] = QUEUED

    @staticmethod
    def _next(left: Iterator[PackedBlock], count: int) -> list[PackedBlock]:
        return list(islice(left, count))

    def _free_actor(self) -> Any:
        """Return the engine with the least work, if it can have more."""
        free = [actor for actor in self._actors if self._queued[actor] < QUEUED]
        return min(free, key=self._queued.__getitem__, default=None)

    def _note_speed(self, actor: Any, blocks: int, seconds: float) -> None:
        waited = 1 + self._queued[actor]  # the tasks before it took their share of the time
        self._speed[actor] = blocks * waited / max(seconds, 1e-3)

    def _bundle(self) -> int:
        """Return how many blocks to give next: what the fastest engine does in some seconds."""
        if not self._speed:
            return 1
        return max(1, int(max(self._speed.values()) * TASK_SECONDS))

    def close(self) -> None:
        """End the engines."""
        for actor in self._actors:
            ray.kill(actor)


def _to_bytes(blocks: Sequence[PackedBlock]) -> bytes:
    """Return the tables of blocks as one: pickling a table costs ten times as much."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, blocks[0].table.schema) as writer:
        for block in blocks:
            writer.write_table(block.table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _from_bytes(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


class EngineActor:
    """An engine with the threads that read for it, as a Ray actor."""

    def __init__(self, job: ScoringJob, options: EngineOptions, graphs: Mapping[str, bytes], threads: int) -> None:
        threads = min(threads, count_cpus())  # the actor may be on a smaller node than planned
        self._scorer = Scorer(job, options, graphs, threads=threads, readers=threads)
        self._meter = ScoringMeter()

    def get_ready(self) -> None:
        """Return once the engine is loaded."""

    def score(self, data: bytes, folder: Folder, identity: Mapping[str, str]) -> list[BlockDone]:
        """Write the parts of blocks, from `_to_bytes`."""
        return list(self._scorer.score(unpack_blocks(_from_bytes(data)), folder, identity, self._count))

    def predict(self, data: bytes) -> list[pa.Table]:
        """Return the predictions of blocks, from `_to_bytes`."""
        return list(self._scorer.predict(unpack_blocks(_from_bytes(data))))

    def extract(self, data: bytes) -> list[tuple[list[str], np.ndarray]]:
        """Return sample ids and features of blocks, from `_to_bytes`."""
        return list(self._scorer.extract(unpack_blocks(_from_bytes(data))))

    def _count(self, rows: pa.Table, seconds: float) -> None:
        self._meter.count_block(rows["error_code"].to_pylist(), seconds)
