"""Run scoring on Ray: tasks that read files, actors that run the engine, and tasks that write parts."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import ceil

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError

from brainscale.cluster import autoscaler
from brainscale.cluster.capacity import can_have_gpus, count_cpus, list_nodes, require_capacity
from brainscale.cluster.placement import Engines, plan_engines
from brainscale.cluster.telemetry import ScoringMeter
from brainscale.errors import RERUN, ClusterError, first_line
from brainscale.models import engines
from brainscale.models.bundle import Bundle
from brainscale.models.engines import EngineOptions
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.on_ray import READ_CPUS, plan_parallel, read_parallel
from brainscale.reading.plan import ReadingPlan
from brainscale.reading.pseudonyms import read_key
from brainscale.reading.reader import read_tables, require_reachable
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.scoring.parts import WritePart, WrittenPart
from brainscale.scoring.predictions import ScoringJob, score_rows

BLOCK_ROWS, GPU_BLOCK_ROWS = 64, 512
"""Approximate number of rows that an engine gets at a time: seconds of work, next to milliseconds of Ray's overhead."""
SAMPLE_NBYTES = 100_000
"""Approximate size of a sample in an archive."""


def score_lazily(
    files: Sequence[SourceFile],
    job: ScoringJob,
    skip: frozenset[str] = frozenset(),
    on_notice: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """Return a lazy dataset of predictions, one row for each sample of the files.

    Args:
        files: the files to score.
        job: the model, and how to run it.
        skip: sample ids to leave out.
        on_notice: called with a message if nodes are being waited for.

    Returns:
        A dataset of schema PREDICTIONS with the column `file_rows`.

    Raises:
        ClusterError: the cluster can never hold that many workers.
    """
    options = engines.resolve_engine(job.engine, float(job.engine.name != "onnx" and can_have_gpus()))
    placement = _place_engines(job, options, files)
    if job.workers is None and autoscaler.is_available():
        on_notice(
            f"scoring with {placement.workers} engine(s) on the running nodes; "
            "use --workers and --cpus-per-worker to let the cluster add nodes"
        )
    # without a minimum, Ray lets an actor pool grow to a third of the CPUs only
    min_workers = min(placement.workers, job.min_workers or placement.workers)
    resources = {"CPU": placement.cpus, **({"GPU": 1.0} if options.on_gpu else {})}
    if waiting := require_capacity(placement.workers, resources, reading_cpus=READ_CPUS):
        on_notice(waiting)
    request = _request_of(job)
    network = ray.put(engines.read_network(job.bundle, options))
    planes = read_parallel(files, partial(read_tables, request=request, skip=skip)).dataset
    return planes.map_batches(
        ScoringActor,
        fn_constructor_args=(job, options, network, placement.threads),
        compute=ActorPoolStrategy(min_size=min_workers, max_size=placement.workers),
        batch_format="pyarrow",
        batch_size=GPU_BLOCK_ROWS if options.on_gpu else BLOCK_ROWS,
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU"),
    )


def plan_scoring(files: Sequence[SourceFile], job: ScoringJob, wanted: Iterable[str]) -> ReadingPlan:
    """Return the files to score in an order that keeps series together.

    Args:
        files: all files of the sources.
        job: the model, and how to run it.
        wanted: ids of the files to score.
    """
    return plan_parallel(files, _request_of(job), wanted)


def _request_of(job: ScoringJob) -> ReadRequest:
    return ReadRequest(preprocess=job.bundle.info.preprocess, key=job.key, hash_paths=job.hash_paths)


def score_into_parts(
    files: Sequence[SourceFile],
    job: ScoringJob,
    skip: frozenset[str],
    write: WritePart,
    part_rows: int,
    on_notice: Callable[[str], None],
) -> Iterator[WrittenPart]:
    """Score files, write their parts, and yield each part once it is written.

    Args:
        files: the files to score.
        job: the model, and how to run it.
        skip: sample ids to leave out.
        write: function that writes one part.
        part_rows: number of rows in one part.
        on_notice: called with a message if nodes are being waited for.

    Raises:
        ClusterError: Ray stopped during the job.
    """
    dataset = score_lazily(files, job, skip, on_notice)
    try:
        written = dataset.map_batches(write, batch_format="pyarrow", batch_size=part_rows, num_cpus=0.1)
        yield from (WrittenPart(**row) for row in written.iter_rows())
    except RayError as error:
        raise ClusterError(f"Ray stopped during this job ({first_line(error)}): {RERUN}") from error


def _place_engines(job: ScoringJob, options: EngineOptions, files: Sequence[SourceFile]) -> Engines:
    """Return how many engines to run: one for each GPU, or as many as the CPUs of the nodes allow."""
    rows, available = estimate_rows(files), ray.cluster_resources()
    if options.on_gpu:
        useful = min(int(available.get("GPU", 0)), ceil(rows / GPU_BLOCK_ROWS))
        cpus = job.cpus_per_worker or 1
        return Engines(workers=job.workers or max(1, useful), threads=cpus, cpus=float(cpus))
    return plan_engines(
        list_nodes(),
        workers=job.workers,
        cpus=job.cpus_per_worker,
        blocks=ceil(rows / BLOCK_ROWS),
    )


def estimate_rows(files: Sequence[SourceFile]) -> int:
    """Return the approximate number of samples; an archive is estimated by its size, since it is not read yet."""
    return sum(max(1, (file.nbytes or 0) // SAMPLE_NBYTES) for file in files)


def predict_rows(
    rows: pa.Table,
    bundle: Bundle,
    engine: str = "auto",
    workers: int | None = 1,
    on_notice: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """Return the predictions of the rows of a manifest, with their labels, sorted by sample_id.

    Args:
        rows: rows of a manifest.
        bundle: the model.
        engine: auto, onnx or torch.
        workers: maximum number of engines; None for as many as the cluster has room for.
        on_notice: called with a message if nodes are being waited for.
    """
    options, key = EngineOptions(name=engine), read_key(None).secret
    job = ScoringJob(bundle=bundle, threshold=bundle.info.threshold, engine=options, workers=workers, key=key)
    dataset = score_lazily(files_of_manifest(rows, bundle.info.preprocess), job, on_notice=on_notice)
    table = pa.concat_tables(ray.get(dataset.to_arrow_refs())).select(PREDICTIONS.names).sort_by("sample_id")
    require_reachable(table)
    label_of = dict(zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    labels = pa.array([label_of.get(sample_id) for sample_id in table["sample_id"].to_pylist()], pa.string())
    return table.set_column(PREDICTIONS.get_field_index("label"), PREDICTIONS.field("label"), labels)


class ScoringActor:
    """A Ray actor with an engine, which turns blocks of planes into blocks of predictions."""

    def __init__(self, job: ScoringJob, options: EngineOptions, network: "ray.ObjectRef[bytes]", threads: int) -> None:
        threads = min(threads, count_cpus())  # the actor may be on a smaller node than planned
        self._engine = engines.load_engine(job.bundle.info, ray.get(network), options, threads=threads)
        self._job, self._meter = job, ScoringMeter()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return the predictions of a block; a row without a plane keeps its error."""
        start_time = time.monotonic()
        rows = score_rows(block, self._engine, self._job.bundle.info, self._job.threshold)
        self._meter.count_block(rows["error_code"].to_pylist(), time.monotonic() - start_time)
        return rows
