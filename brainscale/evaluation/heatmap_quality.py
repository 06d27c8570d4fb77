"""Whether the report's heatmaps show what the model goes by, measured on samples of the evaluation."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale import progress
from brainscale.models.bundle import Bundle
from brainscale.models.explained_score import score_of_engine
from brainscale.models.faithfulness import FaithfulnessSummary, measure_beside_random, summarise_faithfulness
from brainscale.models.heatmaps import compute_heatmap_batches, load_cpu_engine, name_heatmap_method
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_planes
from brainscale.reading.request import ReadRequest
from brainscale.seeds import derive
from brainscale.stats.labelled import values_of
from brainscale.stats.resampling import group_codes

MEASURED = 12
"""Maximum number of samples: the curves of each cost 52 predictions, beside its heatmap."""


def measure_faithfulness(bundle: Bundle, manifest: pa.Table, predictions: pa.Table) -> FaithfulnessSummary | None:
    """Return the faithfulness of the heatmaps of samples with a tumour that are predicted as such.

    Args:
        bundle: the model.
        manifest: rows of the samples.
        predictions: the labelled rows of a table of schema PREDICTIONS.

    Returns:
        The summary of at most `MEASURED` samples; None if no sample with a tumour is predicted as such.
    """
    sample_ids = choose_samples(bundle, predictions, manifest)
    manifest = manifest.filter(pc.is_in(manifest["sample_id"], pa.array(sample_ids, pa.string())))
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
    pairs = zip(greys, heatmaps, strict=True)
    measured_now = (measure_beside_random(score, *pair) for pair in pairs)
    measured = list(progress.each(measured_now, "measuring heatmaps", len(greys), "samples"))
    groups = values_of(pa.chunked_array([list(planes)], pa.string()), manifest, "group").to_pylist()
    method = name_heatmap_method(bundle.info)
    return summarise_faithfulness(method, measured, groups)


def choose_samples(bundle: Bundle, predictions: pa.Table, manifest: pa.Table) -> Sequence[str]:
    """Return random true positives, first one of each group, then the second ones; the same for the same predictions.

    Args:
        bundle: the model, whose first class is the one without a tumour.
        predictions: the labelled rows of a table of schema PREDICTIONS.
        manifest: rows of the samples, for their groups.
    """
    negative = next(iter(bundle.info.classes))
    is_hit = pc.and_(*(pc.not_equal(predictions[name], negative) for name in ("label", "prediction")))
    ids = predictions["sample_id"]
    groups = pc.coalesce(values_of(ids, manifest, "group"), ids)
    of_hits = pa.table({"sample_id": ids, "group": groups}).filter(is_hit).sort_by("sample_id")
    hits, codes = of_hits["sample_id"], group_codes(of_hits["group"])
    mixed = np.random.default_rng(derive(0, "faithfulness")).permutation(len(hits))
    by_group = np.argsort(codes[mixed], kind="stable")  # places in mixed, those of a group side by side
    _, starts, sizes = np.unique(codes[mixed][by_group], return_index=True, return_counts=True)
    turns = np.empty(len(hits), np.int64)
    turns[by_group] = np.arange(len(hits)) - np.repeat(starts, sizes)
    chosen = mixed[np.argsort(turns, kind="stable")[:MEASURED]]
    sample_ids: list[str] = hits.take(pa.array(chosen, pa.int64())).to_pylist()
    return sample_ids
