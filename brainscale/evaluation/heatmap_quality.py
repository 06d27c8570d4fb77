"""Whether the report's heatmaps show what the model goes by, measured on samples of the evaluation."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from brainscale.models.bundle import Bundle
from brainscale.models.explained_score import score_of_engine
from brainscale.models.faithfulness import FaithfulnessSummary, measure_beside_random, summarise_faithfulness
from brainscale.models.heatmaps import compute_heatmap_batches, load_cpu_engine, name_heatmap_method
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_planes
from brainscale.reading.request import ReadRequest
from brainscale.seeds import derive

MEASURED = 12
"""Maximum number of samples: their heatmaps and curves cost about 140 predictions each."""


def measure_faithfulness(bundle: Bundle, manifest: pa.Table, predictions: pa.Table) -> FaithfulnessSummary | None:
    """Return the faithfulness of the heatmaps of samples with a tumour that are predicted as such.

    Args:
        bundle: the model.
        manifest: rows of the samples.
        predictions: the labelled rows of a table of schema PREDICTIONS.

    Returns:
        The summary of at most `MEASURED` samples; None if no sample with a tumour is predicted as such.
    """
    group_of = dict(zip(manifest["sample_id"].to_pylist(), manifest["group"].to_pylist(), strict=True))
    sample_ids = choose_samples(bundle, predictions, group_of)
    preprocess = bundle.info.preprocess
    planes = read_planes(files_of_manifest(manifest, preprocess), sample_ids, ReadRequest(preprocess=preprocess))
    if not planes:
        return None
    engine = load_cpu_engine(bundle)
    score = score_of_engine(engine)
    greys = list(planes.values())
    heatmaps = (
        heatmap
        for batch in compute_heatmap_batches(bundle.info, bundle.weights.read_bytes(), greys, engine)
        for heatmap in batch
    )
    measured = [measure_beside_random(score, *pair) for pair in zip(greys, heatmaps, strict=True)]
    method = name_heatmap_method(bundle.info.architecture, len(bundle.info.classes))
    return summarise_faithfulness(method, measured, [group_of[sample_id] for sample_id in planes])


def choose_samples(bundle: Bundle, predictions: pa.Table, group_of: dict[str, str | None]) -> Sequence[str]:
    """Return random true positives, first one of each group, then the second ones; the same for the same predictions.

    Args:
        bundle: the model, whose first class is the one without a tumour.
        predictions: the labelled rows of a table of schema PREDICTIONS.
        group_of: sample id → group.
    """
    negative = next(iter(bundle.info.classes))
    rows = predictions.select(["sample_id", "label", "prediction"]).to_pylist()
    hits = sorted(row["sample_id"] for row in rows if negative not in (row["label"], row["prediction"]))
    mixed = [hits[i] for i in np.random.default_rng(derive(0, "faithfulness")).permutation(len(hits))]
    turns: dict[str, int] = {}
    turn_of = {}
    for sample_id in mixed:
        group = group_of[sample_id] or sample_id
        turn_of[sample_id] = turns[group] = turns.get(group, -1) + 1
    return sorted(mixed, key=turn_of.__getitem__)[:MEASURED]
