"""Make rows of predictions from planes, for scoring and evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import replace_column
from brainscale.models.bundle import Bundle
from brainscale.models.engines import Engine, EngineOptions
from brainscale.reading.sample import view_planes
from brainscale.schema import PREDICTIONS
from brainscale.stats.decisions import apply_temperature, predicted_classes, tumour_probability


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """A model, and how to run it.

    Attributes:
        bundle: the model.
        threshold: probability of a tumour from which on a sample is predicted to be one.
        engine: the engine, and how it computes.
        workers: maximum number of engines, each with a GPU where torch runs on GPUs; None for as many as the cluster
            has room for and the work can use.
        min_workers: number of engines to start with and to keep when idle; None for all.
        cpus_per_worker: number of CPUs of each engine; None for the CPUs of its node, shared evenly.
        key: secret key for the hashes of series, and of paths.
        has_key: whether the key was given or is kept, so that hashes of series are the same in every job; without
            one, a series is called by its first slice.
        hash_paths: whether the names of files and members become hashes.
    """

    bundle: Bundle
    threshold: float
    engine: EngineOptions = field(default_factory=EngineOptions)
    workers: int | None = None
    min_workers: int | None = None
    cpus_per_worker: int | None = None
    key: bytes = b""
    has_key: bool = True
    hash_paths: bool = False


def score_rows(
    rows: pa.Table, engine: Engine, bundle: Bundle, threshold: float, *, with_patients: bool = False
) -> pa.Table:
    """Return the predictions of rows with planes; a row without a plane keeps its error.

    Args:
        rows: a table of schema `reading.sample.COLUMNS`.
        engine: engine of the model.
        bundle: the model.
        threshold: operating threshold of the probability of a tumour.
        with_patients: whether the hashes of patients stay: they have to be the same in every job.

    Returns:
        A table of schema PREDICTIONS.
    """
    info, novelty = bundle.info, bundle.novelty
    has_plane = pc.is_valid(rows["plane"]).to_numpy()
    if not with_patients:
        rows = replace_column(rows, "patient", pa.nulls(len(rows), pa.string()))
    planes = stack_planes(rows["plane"], info.preprocess.image_size)
    output = engine(planes)
    probabilities = apply_temperature(output.probabilities, info.temperature)
    measured = None if novelty is None or not len(planes) else novelty.measure(output.features)
    classes, model = list(info.classes), info.weights_sha256
    return make_predictions(rows, has_plane, probabilities, threshold, classes, model, measured)


def stack_planes(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """Return the planes of a column, without its nulls, uint8 [n, S, S]; without a copy if they are in one chunk."""
    planes = column.drop_null()
    chunks = planes.chunks or [pa.array([], pa.binary())]
    (array,) = chunks if len(chunks) == 1 else [pa.concat_arrays(chunks)]
    return view_planes(array, size)


def make_predictions(
    rows: pa.Table,
    has_plane: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    classes: Sequence[str],
    model: str,
    novelty: np.ndarray | None = None,
) -> pa.Table:
    """Return a table of schema PREDICTIONS.

    Args:
        rows: a table with sample_id, uri, member, frame, sha256, scan, patient, empty, error_code and error.
        has_plane: bool [rows], which rows have probabilities.
        probabilities: float32 [rows with planes, classes].
        threshold: operating threshold of the probability of a tumour.
        classes: names of the classes, in the order of the columns.
        model: sha256 of the weights.
        novelty: float32 [rows with planes]; None for a model without.
    """
    is_finite = np.isfinite(probabilities).all(1)
    not_finite = _spread_over_rows((~is_finite).tolist(), has_plane, pa.bool_()).fill_null(False)
    is_scored, probabilities = has_plane & ~not_finite.to_numpy(zero_copy_only=False), probabilities[is_finite]
    predicted = [classes[i] for i in predicted_classes(probabilities, threshold)]
    new_columns = {
        "prediction": _spread_over_rows(predicted, is_scored, pa.string()),
        "probability": _spread_over_rows(tumour_probability(probabilities).tolist(), is_scored, pa.float32()),
        "probabilities": _spread_over_rows(probabilities.tolist(), is_scored, pa.list_(pa.float32())),
        "model": pa.array([model] * len(rows), pa.string()),
        "error_code": pc.if_else(not_finite, "not_finite", rows["error_code"]),
        "error": pc.if_else(not_finite, "the model's output is not a number", rows["error"]),
    }
    if novelty is not None:
        new_columns["novelty"] = _spread_over_rows(novelty[is_finite].tolist(), is_scored, pa.float32())
    nulls = pa.nulls(len(rows))
    columns = {name: rows[name] for name in rows.column_names} | new_columns
    return pa.table([columns.get(f.name, nulls).cast(f.type) for f in PREDICTIONS], schema=PREDICTIONS)


def _spread_over_rows(values: list[Any], is_present: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return an array with the values at the rows that are present, in order, and null at all others."""
    remaining = iter(values)
    return pa.array([next(remaining) if present else None for present in is_present], kind)
