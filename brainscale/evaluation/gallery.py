"""The report's gallery: missed tumours, false alarms, detected tumours and uncertain cases, with heatmaps."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from brainscale import progress
from brainscale.evaluation.report.cases import Case, CaseRow
from brainscale.models.bundle import Bundle
from brainscale.models.heatmap_pictures import describe_peak, overlay_heatmap
from brainscale.models.heatmaps import compute_heatmap_batches, load_cpu_engine
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_planes
from brainscale.reading.request import ReadRequest
from brainscale.stats.labelled import LabelledProbabilities

SHOWN = 6
"""Maximum number of cases in a row."""
JPEG_QUALITY = 90
Pictures = tuple[bytes, bytes, str | None]
FIRST, SPREAD = "the most confident first", "from the most to the least confident"


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """Samples with one outcome, and which of them to show.

    Attributes:
        title: name of the outcome.
        none: what to say where no sample has it.
        rows: their indices.
        order: which are shown, in words.
        spread: whether to show some along the whole order, not the first ones.
    """

    title: str
    none: str
    rows: np.ndarray
    order: str = FIRST
    spread: bool = False


def choose_cases(
    bundle: Bundle,
    manifest: pa.Table,
    predictions: pa.Table,
    samples: LabelledProbabilities,
    *,
    show_burned_in: bool = False,
) -> list[CaseRow]:
    """Return the rows of the gallery: each holds one sample of a group (a patient, a series, or duplicates).

    Args:
        bundle: the model.
        manifest: rows of the samples.
        predictions: the labelled rows of a table of schema PREDICTIONS.
        samples: their labels and probabilities, in the same order.
        show_burned_in: whether to show pictures of samples whose pixels may show text, such as a name.
    """
    by_certainty = np.argsort(-certainty(samples), kind="stable")
    rows, taken = [], np.zeros(len(samples), bool)
    for outcome in _outcomes(samples, by_certainty):
        indices, like_it = _one_of_each_group(outcome.rows, samples.codes)
        shown = _spread(len(indices)) if outcome.spread else np.arange(min(len(indices), SHOWN))
        taken[outcome.rows] |= np.isin(samples.codes[outcome.rows], samples.codes[indices[shown]])
        about = _describe(outcome, len(indices), len(shown))
        rows.append((outcome.title, about, _cases(predictions, indices[shown], like_it[shown], show_burned_in)))
    others = by_certainty[::-1][~taken[by_certainty[::-1]]]
    indices, like_it = _one_of_each_group(others, samples.codes)
    if len(indices):
        nearest = (
            "Scores nearest to the threshold"
            if len(samples.classes) == 2
            else "Scores nearest to the threshold, or kinds of tumour with the smallest lead"
        )
        about = f"{nearest}, correct or wrong; the cases above are not repeated."
        rows.append(("Least certain", about, _cases(predictions, indices[:SHOWN], like_it[:SHOWN], show_burned_in)))
    shown_ids = [case.sample_id for _, _, cases in rows for case in cases if not case.withheld]
    pictures = dict(_pictures(bundle, manifest, list(dict.fromkeys(shown_ids))))
    return [
        CaseRow(title=title, about=about, cases=[_illustrate(case, pictures) for case in cases])
        for title, about, cases in rows
    ]


def certainty(samples: LabelledProbabilities) -> np.ndarray:
    """Return how far each sample is from another prediction: float64 [n].

    That is the distance of P(tumour) from the threshold or, with several kinds of tumour, the lead of the predicted one
    over the next, if that is less.
    """
    distance = np.abs(samples.tumour_probability - samples.threshold)
    if len(samples.classes) == 2:
        return np.asarray(distance)
    kinds = np.sort(samples.probabilities[:, 1:], axis=1)
    lead = kinds[:, -1] - kinds[:, -2]
    return np.where(samples.predicted > 0, np.minimum(distance, lead), distance)


def _outcomes(samples: LabelledProbabilities, order: np.ndarray) -> Iterator[_Outcome]:
    """Yield the outcomes that samples of these classes can have, each with its samples in the given order."""
    has_tumour, predicted = samples.has_tumour[order], samples.predicted[order] > 0
    is_correct = samples.predicted[order] == samples.labels[order]
    if has_tumour.any():
        missed = order[has_tumour & ~predicted]
        yield _Outcome(title="Missed tumours (false negatives)", none="No tumour was missed.", rows=missed)
    if not has_tumour.all():
        alarms = order[~has_tumour & predicted]
        yield _Outcome(title="False alarms (false positives)", none="There was no false alarm.", rows=alarms)
    if len(samples.classes) > 2:
        confused = order[has_tumour & predicted & ~is_correct]
        none = "No tumour was taken for one of another class."
        yield _Outcome(title="Tumours of another class than predicted", none=none, rows=confused)
    if has_tumour.any():
        yield _Outcome(
            title="Detected tumours (true positives)",
            none="No tumour was detected.",
            rows=order[has_tumour & predicted & is_correct],
            order=SPREAD,
            spread=True,
        )


def _one_of_each_group(rows: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of the rows of each group, in their order, and how many more each group has among them."""
    _, first, counts = np.unique(codes[rows], return_index=True, return_counts=True)
    order = np.argsort(first)
    return rows[first[order]], counts[order] - 1


def _spread(count: int) -> np.ndarray:
    """Return positions of at most `SHOWN` of so many, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, SHOWN)).round().astype(np.int64))


def _describe(outcome: _Outcome, groups: int, shown: int) -> str:
    samples = len(outcome.rows)
    if not samples:
        return outcome.none
    text = f"{samples:,} {'sample' if samples == 1 else 'samples'}"
    if groups < samples:
        text += f" in {groups:,} {'group' if groups == 1 else 'groups'}, one of each group"
    if shown < groups:
        return f"{text}; {shown} are shown, {outcome.order}."
    return f"{text}, {outcome.order}." if shown > 1 else f"{text}."


def _cases(predictions: pa.Table, rows: np.ndarray, like_it: np.ndarray, show_burned_in: bool) -> list[Case]:
    columns = ["sample_id", "label", "prediction", "probability", "burned_in"]
    chosen = predictions.select(columns).take(pa.array(rows, pa.int64())).to_pylist()
    withheld = [bool(row.pop("burned_in")) and not show_burned_in for row in chosen]
    return [
        Case(**row, like_it=more, withheld=hidden)
        for row, more, hidden in zip(chosen, like_it.tolist(), withheld, strict=True)
    ]


def _illustrate(case: Case, pictures: dict[str, Pictures]) -> Case:
    picture, heatmap, note = pictures.get(case.sample_id, (None, None, None))
    return replace(case, picture=picture, heatmap=heatmap, heatmap_note=note)


def _pictures(bundle: Bundle, manifest: pa.Table, sample_ids: Sequence[str]) -> Iterator[tuple[str, Pictures]]:
    """Yield each sample with its scan, the scan under its heatmap, and what is wrong with the heatmap."""
    request = ReadRequest(preprocess=bundle.info.preprocess)
    manifest = manifest.filter(pc.is_in(manifest["sample_id"], pa.array(sample_ids, pa.string())))
    planes = read_planes(files_of_manifest(manifest, bundle.info.preprocess), sample_ids, request)
    weights, engine = bundle.weights.read_bytes(), load_cpu_engine(bundle)
    batches = compute_heatmap_batches(bundle.info, weights, list(planes.values()), engine)
    heatmaps = (heatmap for batch in batches for heatmap in batch)
    drawn = progress.each(zip(planes.items(), heatmaps, strict=True), "drawing heatmaps", len(planes), "pictures")
    for (sample_id, plane), heatmap in drawn:
        overlay = overlay_heatmap(plane, heatmap)
        scan, heat = _encode(plane, "PNG", optimize=True), _encode(overlay, "JPEG", quality=JPEG_QUALITY)
        yield sample_id, (scan, heat, describe_peak(plane, heatmap))


def _encode(pixels: np.ndarray, kind: str, **options: bool | int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **options)
    return file.getvalue()
