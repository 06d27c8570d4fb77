"""Units of work → a lazy table of predictions: what scoring and evaluation share."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Dataset

from brainscale.cluster import autoscaler
from brainscale.cluster.capacity import can_have_gpus, cpus_here, nodes_there, require_capacity
from brainscale.cluster.placement import Engines
from brainscale.cluster.placement import engines as engines_on
from brainscale.cluster.telemetry import ScoringMeter
from brainscale.models import engines as engines
from brainscale.models.bundle import Bundle
from brainscale.models.engines import EngineOptions
from brainscale.reading.parallel import READ_CPUS, read_parallel
from brainscale.reading.pseudonyms import read_key
from brainscale.reading.reader import files_of_manifest, read_tables, require_reachable
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import SourceFile
from brainscale.schema import PREDICTIONS
from brainscale.stats.decisions import apply_temperature, predicted_classes, tumour_probability

BLOCK_ROWS, GPU_BLOCK_ROWS = 64, 512
"""Rows that reach an engine at a time, about: seconds of work, so that Ray's milliseconds for each do not count."""
NBYTES_OF_A_SAMPLE = 100_000
"""About, in an archive."""


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """How to score.

    Attributes:
        bundle: with what.
        threshold: at and above which a probability is called a tumour.
        engine: which engine, and how it computes.
        workers: engines side by side at most, each with a GPU where torch runs on them; without it, all that the
            cluster has room for and the work has use for.
        min_workers: engines that begin, and stay when there is little to do; without it, all.
        cpus_per_worker: of each engine; by default those of its node, shared by as many as were asked for.
        key: of the hashes that stand for series.
    """

    bundle: Bundle
    threshold: float
    engine: EngineOptions = field(default_factory=EngineOptions)
    workers: int | None = None
    min_workers: int | None = None
    cpus_per_worker: int | None = None
    key: bytes = b""


def predictions(
    units: Sequence[SourceFile],
    scoring: ScoringJob,
    skip: frozenset[str] = frozenset(),
    on_notice: Callable[[str], None] = lambda text: None,
) -> Dataset:
    """A lazy table of schema PREDICTIONS with `unit_rows`, one row for each sample of the units.

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
    request = ReadRequest(spec=scoring.bundle.info.preprocess, key=scoring.key)
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

    def __init__(
        self, scoring: ScoringJob, options: EngineOptions, network: "ray.ObjectRef[bytes]", threads: int
    ) -> None:
        threads = min(threads, cpus_here())  # it may be on a smaller node than the one it was cut for
        self._engine = engines.load_engine(scoring.bundle.info, ray.get(network), options, threads=threads)
        self._scoring, self._meter = scoring, ScoringMeter()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Rows with planes → rows of schema PREDICTIONS; a row without a plane keeps its error."""
        info, began = self._scoring.bundle.info, time.monotonic()
        present = pc.is_valid(block["plane"]).to_numpy()
        known = apply_temperature(self._engine(stacked(block["plane"], info.preprocess.image_size)), info.temperature)
        seconds = time.monotonic() - began
        rows = to_predictions(block, present, known, self._scoring.threshold, list(info.classes), info.weights_sha256)
        self._meter.block(rows["error_code"].to_pylist(), seconds)
        return rows


def stacked(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """The planes of a column that are there, uint8 [n, S, S]."""
    encoded = column.drop_null().to_pylist()
    return np.frombuffer(b"".join(encoded), np.uint8).reshape(-1, size, size)


def to_predictions(
    block: pa.Table,
    present: np.ndarray,
    known: np.ndarray,
    threshold: float,
    classes: Sequence[str],
    model: str,
) -> pa.Table:
    """Put probabilities beside the samples they belong to.

    Args:
        block: rows with sample_id, uri, member, frame, sha256, scan, empty, error_code and error.
        present: bool [rows], which of them have probabilities.
        known: float32 [present rows, classes], in the block's order.
        threshold: of the probability of a tumour.
        classes: names in the order of the columns.
        model: sha256 of the weights.
    """
    finite = np.isfinite(known).all(1)
    lost = _spread((~finite).tolist(), present, pa.bool_()).fill_null(False)  # scored, but not with numbers
    present, known = present & ~lost.to_numpy(zero_copy_only=False), known[finite]
    filled = {
        "prediction": _spread([classes[i] for i in predicted_classes(known, threshold)], present, pa.string()),
        "probability": _spread(tumour_probability(known).tolist(), present, pa.float32()),
        "probabilities": _spread(known.tolist(), present, pa.list_(pa.float32())),
        "model": pa.array([model] * len(block), pa.string()),
        "error_code": pc.if_else(lost, "not_finite", block["error_code"]),
        "error": pc.if_else(lost, "the model's output is not a number", block["error"]),
    }
    empty = pa.nulls(len(block))
    columns = {name: block[name] for name in block.column_names} | filled
    scored = pa.table([columns.get(f.name, empty).cast(f.type) for f in PREDICTIONS], schema=PREDICTIONS)
    return scored.append_column("unit_rows", block["unit_rows"])


def _spread(values: list[Any], present: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values at the present rows, null elsewhere."""
    remaining = iter(values)
    return pa.array([next(remaining) if here else None for here in present], kind)
