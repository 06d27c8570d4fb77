"""Probabilities beside the samples they belong to: what scoring and evaluation share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.models.bundle import Bundle, ModelInfo
from brainscale.models.engines import Engine, EngineOptions
from brainscale.schema import PREDICTIONS
from brainscale.stats.decisions import apply_temperature, predicted_classes, tumour_probability


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


def score_rows(rows: pa.Table, engine: Engine, info: ModelInfo, threshold: float) -> pa.Table:
    """Return predictions of rows with planes; a row without a plane keeps its error.

    Args:
        rows: schema `reading.reader.COLUMNS`.
        engine: of the model.
        info: what the model's probabilities mean.
        threshold: operating threshold of the probability of a tumour.

    Returns:
        Schema PREDICTIONS, and `unit_rows`.
    """
    present = pc.is_valid(rows["plane"]).to_numpy()
    probabilities = apply_temperature(engine(stack_planes(rows["plane"], info.preprocess.image_size)), info.temperature)
    return to_predictions(rows, present, probabilities, threshold, list(info.classes), info.weights_sha256)


def stack_planes(column: pa.ChunkedArray, size: int) -> np.ndarray:
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
    return scored.append_column("file_rows", block["file_rows"])


def _spread(values: list[Any], present: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values at the present rows, null elsewhere."""
    remaining = iter(values)
    return pa.array([next(remaining) if here else None for here in present], kind)
