"""Run scoring on Ray: reading tasks, engine actors, and tasks that write parts."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError

from brainscale.cluster import autoscaler
from brainscale.cluster.capacity import can_have_gpus, cpus_here, nodes_there, require_capacity
from brainscale.cluster.placement import Engines
from brainscale.cluster.placement import engines as engines_on
from brainscale.cluster.telemetry import ScoringMeter
from brainscale.errors import RERUN, ClusterError, first_line
from brainscale.models import engines
from brainscale.models.bundle import Bundle
from brainscale.models.engines import EngineOptions
from brainscale.reading.on_ray import READ_CPUS, read_parallel
from brainscale.reading.pseudonyms import read_key
from brainscale.reading.reader import files_of_manifest, read_tables, require_reachable
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.scoring.predictions import ScoringJob, score_rows

BLOCK_ROWS, GPU_BLOCK_ROWS = 64, 512
"""Rows that reach an engine at a time, about: seconds of work, so that Ray's milliseconds for each do not count."""


NBYTES_OF_A_SAMPLE = 100_000
"""About, in an archive."""


def predictions(
    units: Sequence[SourceFile],
    scoring: ScoringJob,
    skip: frozenset[str] = frozenset(),
    on_notice: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """A lazy table of schema PREDICTIONS with `file_rows`, one row for each sample of the units.

    Args:
        units: what to score.
        scoring: with what, and how.
        skip: ids that are not wanted.
        on_notice: told if nodes have to be waited for.

    Raises:
        ClusterError: the cluster can never give so many workers their place.
    """
    options = engines.resolve_engine(scoring.engine, float(scoring.engine.name != "onnx" and can_have_gpus()))
    place = _place(scoring, options, units)
    if scoring.workers is None and autoscaler.is_there():
        on_notice(f"{place.workers} engine(s): --workers N, and --cpus-per-worker K, ask for nodes that may be added")
    least = min(place.workers, scoring.min_workers or place.workers)  # left to itself, a pool takes a third of the CPUs
    each = {"CPU": place.cpus, **({"GPU": 1.0} if options.on_gpu else {})}
    if waiting := require_capacity(place.workers, each, beside=READ_CPUS):
        on_notice(waiting)
    request = ReadRequest(preprocess=scoring.bundle.info.preprocess, key=scoring.key)
    network = ray.put(engines.network_of(scoring.bundle, options))
    planes = read_parallel(units, partial(read_tables, request=request, skip=skip)).dataset
    return planes.map_batches(
        ScoringActor,
        fn_constructor_args=(scoring, options, network, place.threads),
        compute=ActorPoolStrategy(min_size=least, max_size=place.workers),
        batch_format="pyarrow",
        batch_size=GPU_BLOCK_ROWS if options.on_gpu else BLOCK_ROWS,
        num_cpus=each["CPU"],
        num_gpus=each.get("GPU"),
    )


def written_parts(
    units: Sequence[SourceFile],
    job: ScoringJob,
    skip: frozenset[str],
    write: Callable[[pa.Table], pa.Table],
    rows: int,
    on_notice: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Score files and write their parts.

    Args:
        units: what to score.
        job: with what, and how.
        skip: ids that are not wanted.
        write: writes a table of predictions; returns what became of it.
        rows: rows in one part.
        on_notice: called with a line if nodes have to be waited for.

    Yields:
        What `write` returned, row by row.

    Raises:
        ClusterError: Ray stopped under the job.
    """
    scored = predictions(units, job, skip, on_notice)
    try:
        yield from scored.map_batches(write, batch_format="pyarrow", batch_size=rows, num_cpus=0.1).iter_rows()
    except RayError as error:
        raise ClusterError(f"Ray stopped under this job ({first_line(error)}): {RERUN}") from error


def _place(scoring: ScoringJob, options: EngineOptions, units: Sequence[SourceFile]) -> Engines:
    """Where engines go: one for each GPU, or as the CPUs of the nodes allow."""
    rows, room = expected_rows(units), ray.cluster_resources()
    if options.on_gpu:
        most = min(int(room.get("GPU", 0)), ceil(rows / GPU_BLOCK_ROWS))
        cpus = scoring.cpus_per_worker or 1
        return Engines(workers=scoring.workers or max(1, most), threads=cpus, cpus=float(cpus))
    return engines_on(
        nodes_there(),
        workers=scoring.workers,
        cpus=scoring.cpus_per_worker,
        blocks=ceil(rows / BLOCK_ROWS),
    )


def expected_rows(units: Sequence[SourceFile]) -> int:
    """Samples of some units, about: those of an archive show only when it is read."""
    return sum(max(1, (unit.nbytes or 0) // NBYTES_OF_A_SAMPLE) for unit in units)


def predict_rows(
    rows: pa.Table,
    bundle: Bundle,
    engine: str = "auto",
    workers: int | None = 1,
    on_notice: Callable[[str], None] = lambda text: None,
) -> pa.Table:
    """Predictions of a manifest's rows in this process, with their labels, sorted by sample_id."""
    options, key = EngineOptions(name=engine), read_key(None).secret
    scoring = ScoringJob(bundle=bundle, threshold=bundle.info.threshold, engine=options, workers=workers, key=key)
    scored = predictions(files_of_manifest(rows), scoring, on_notice=on_notice)
    table = pa.concat_tables(ray.get(scored.to_arrow_refs())).select(PREDICTIONS.names).sort_by("sample_id")
    require_reachable(table)
    label = dict(zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    labels = pa.array([label.get(sample_id) for sample_id in table["sample_id"].to_pylist()], pa.string())
    return table.set_column(PREDICTIONS.get_field_index("label"), PREDICTIONS.field("label"), labels)


class ScoringActor:
    """An engine that turns blocks of planes into blocks of predictions; lives in a Ray actor."""

    def __init__(self, job: ScoringJob, options: EngineOptions, network: "ray.ObjectRef[bytes]", threads: int) -> None:
        threads = min(threads, cpus_here())  # it may be on a smaller node than the one it was cut for
        self._engine = engines.load_engine(job.bundle.info, ray.get(network), options, threads=threads)
        self._job, self._meter = job, ScoringMeter()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Return predictions of rows with planes; a row without a plane keeps its error."""
        began = time.monotonic()
        rows = score_rows(block, self._engine, self._job.bundle.info, self._job.threshold)
        self._meter.block(rows["error_code"].to_pylist(), time.monotonic() - began)
        return rows
