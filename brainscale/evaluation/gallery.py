"""The report's gallery: the worst errors and the least certain cases, with heatmaps."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from brainscale.evaluation.report.page import Case
from brainscale.models.bundle import Bundle
from brainscale.models.heatmap_pictures import render_heatmaps
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_planes
from brainscale.reading.request import ReadRequest
from brainscale.stats.labelled import LabelledProbabilities

SHOWN = 12
"""Maximum number of cases of each kind."""


def choose_cases(
    bundle: Bundle,
    manifest: pa.Table,
    predictions: pa.Table,
    samples: LabelledProbabilities,
    *,
    show_burned_in: bool = False,
) -> tuple[list[Case], list[Case]]:
    """Return the worst errors, the most confident first, and the least certain of the other cases.

    Args:
        bundle: the model.
        manifest: rows of the samples.
        predictions: the labelled rows of a table of schema PREDICTIONS.
        samples: their labels and probabilities, in the same order.
        show_burned_in: whether to show pictures of samples whose pixels may show text, such as a name.
    """
    rows = predictions.select(["sample_id", "label", "prediction", "probability", "burned_in"]).to_pylist()
    for row in rows:
        row["withheld"] = bool(row.pop("burned_in")) and not show_burned_in
    by_certainty = [rows[i] for i in np.argsort(-certainty(samples), kind="stable")]
    worst = [row for row in by_certainty if row["label"] != row["prediction"]][:SHOWN]
    worst_ids = {row["sample_id"] for row in worst}
    uncertain = [row for row in by_certainty[::-1] if row["sample_id"] not in worst_ids][:SHOWN]
    shown = [row["sample_id"] for row in (*worst, *uncertain) if not row["withheld"]]
    pictures = _pictures(bundle, manifest, shown)
    return (
        [Case(**row, picture=pictures.get(row["sample_id"])) for row in worst],
        [Case(**row, picture=pictures.get(row["sample_id"])) for row in uncertain],
    )


def certainty(samples: LabelledProbabilities) -> np.ndarray:
    """Return the distance of each score from the threshold; with more classes, the lead over the second class."""
    if len(samples.classes) == 2:
        return np.asarray(np.abs(samples.tumour_probability - samples.threshold))
    ordered = np.sort(samples.probabilities, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _pictures(bundle: Bundle, manifest: pa.Table, sample_ids: Sequence[str]) -> dict[str, bytes]:
    request = ReadRequest(preprocess=bundle.info.preprocess)
    planes = read_planes(files_of_manifest(manifest, bundle.info.preprocess), sample_ids, request)
    return dict(zip(planes, render_heatmaps(bundle, list(planes.values())), strict=True))
