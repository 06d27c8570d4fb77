"""Choose the most unusual samples of an evaluation for its report, with the planes that the model saw."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from brainscale.evaluation.report.novelty import NoveltySection, UnusualCase
from brainscale.models.bundle import Bundle
from brainscale.models.novelty import count_unusual
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_planes
from brainscale.reading.request import ReadRequest

SHOWN = 6
"""Maximum number of pictures."""
COLUMNS = ["sample_id", "novelty", "label", "prediction", "probability", "burned_in"]


def summarise_novelty(
    bundle: Bundle, manifest: pa.Table, predictions: pa.Table, *, show_burned_in: bool = False
) -> NoveltySection:
    """Return how many samples are unusual, and the most unusual ones that are, or as many as there is room for.

    Args:
        bundle: the model.
        manifest: rows of the samples.
        predictions: a table of schema PREDICTIONS.
        show_burned_in: whether to show pictures of samples whose pixels may show text, such as a name.
    """
    measured = predictions.filter(pc.is_valid(predictions["novelty"]))
    novelty = measured["novelty"].to_numpy()
    unusual = count_unusual(novelty)
    order = [("novelty", "descending"), ("sample_id", "ascending")]
    rows = measured.select(COLUMNS).sort_by(order).slice(0, min(unusual, SHOWN)).to_pylist()
    for row in rows:
        row["withheld"] = bool(row.pop("burned_in")) and not show_burned_in
    return NoveltySection(
        source=bundle.info.novelty_source,
        samples=len(novelty),
        unusual=unusual,
        beyond_all=int((novelty == 1).sum()),
        cases=_illustrate([UnusualCase(**row) for row in rows], bundle, manifest),
    )


def _illustrate(cases: Sequence[UnusualCase], bundle: Bundle, manifest: pa.Table) -> list[UnusualCase]:
    shown = [case.sample_id for case in cases if not case.withheld]
    if not shown:
        return list(cases)
    request = ReadRequest(preprocess=bundle.info.preprocess)
    manifest = manifest.filter(pc.is_in(manifest["sample_id"], pa.array(shown, pa.string())))
    planes = read_planes(files_of_manifest(manifest, bundle.info.preprocess), shown, request)
    return [
        replace(case, picture=_to_png(planes[case.sample_id])) if case.sample_id in planes else case for case in cases
    ]


def _to_png(plane: np.ndarray) -> bytes:
    png = io.BytesIO()
    Image.fromarray(plane).save(png, format="PNG")
    return png.getvalue()
