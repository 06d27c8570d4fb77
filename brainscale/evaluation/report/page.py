"""report.html: one file that needs no network and runs no script but its own."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from brainscale.evaluation.report import curves, svg_charts
from brainscale.evaluation.report.plots import Plot, Scores
from brainscale.formatting import format_number
from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.metric_names import metric_name
from brainscale.stats.metrics import as_mapping, confusion
from brainscale.stats.resampling import group_codes
from brainscale.stats.weighted_metrics import predictive_values
from brainscale.storage.local import replacing

FOLDER = Path(__file__).parent
OF_SUBGROUPS = ("auroc", "sensitivity", "specificity")
HEADLINE = ("auroc", "sensitivity", "specificity", "ppv", "npv", "accuracy")
EXCLUDED = "excluded: "


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sample of the gallery.

    Attributes:
        sample_id: its name.
        label: its class.
        prediction: the class it was called.
        probability: of a tumour.
        picture: PNG of the scan beside the scan under its heatmap, where there is one.
    """

    sample_id: str
    label: str
    prediction: str
    probability: float
    picture: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """What the report tells; every text may come from outside and is escaped.

    Attributes:
        title: of the page.
        metrics: table of schema METRICS; the important six stand large, the rest in a table.
        classes: names in the order of the columns, the one without a tumour first.
        labels: int [N], class indices.
        probabilities: float [N, classes].
        threshold: the operating threshold of the probability of a tumour; unused with more than two classes.
        threshold_source: how it was chosen.
        groups: [N], patient or group of duplicates, which bands and bars know of.
        temperature_source: the temperature and how it was chosen, where the scores were calibrated.
        prevalence: of tumours where the model is to be used, for the figures there.
        plots: pictures to take along, embedded as PNG.
        history: rows of schema HISTORY, where the training is known.
        worst: wrong calls, the surest first.
        uncertain: samples nearest to the threshold.
        flow: name → count, from the files seen to the samples used; names that begin with `excluded: ` give reasons.
        duplicates: name → count, such as groups and copies.
        shared: samples that the model has learnt from or was chosen by, by what ties them; None where not known.
        without_shared: table of schema METRICS of the others, where there are some of either.
        looks: how many times this run has looked at this test set, this time included.
        subgroups: table of schema SUBGROUPS.
        facts: provenance, name → value.
    """

    title: str
    metrics: pa.Table
    classes: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    threshold: float
    threshold_source: str
    groups: Sequence[Any] | None = None
    temperature_source: str | None = None
    prevalence: float | None = None
    plots: Sequence[Plot] = ()
    history: Sequence[Mapping[str, Any]] | None = None
    worst: Sequence[Case] = ()
    uncertain: Sequence[Case] = ()
    flow: Mapping[str, int] = field(default_factory=dict)
    duplicates: Mapping[str, int] = field(default_factory=dict)
    shared: Mapping[str, int] | None = None
    without_shared: pa.Table | None = None
    looks: int | None = None
    subgroups: pa.Table | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


def write_report(path: Path, page: ReportPage) -> None:
    """Render the report to `path`, which appears whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainscale", "evaluation/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(format_number=format_number, count="{:,}".format, png=_png)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    text = environment.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704
        policy=policy(style, script),
        **_contents(page),
    )
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def policy(style: str, script: str) -> str:
    """The page's Content-Security-Policy: this style and this script by their hashes, pictures within, nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def embedded(data: object) -> Markup:
    """JSON that can stand in a script element: no text in it can end the element or a line."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 and U+2029 are escaped
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - no sign of markup is left


def _contents(page: ReportPage) -> dict[str, Any]:
    """What the template shows besides the page's own fields."""
    data = _scores(page)
    rows = [{**row, **metric_name(row["metric"], page.prevalence)} for row in page.metrics.to_pylist()]
    own = None if data.reason else _at_threshold(data.sick, data.scores, page.threshold)
    percent = None if own is None else _percent(page, own)
    large = [row for name in HEADLINE for row in rows if row["metric"] == name]
    return {
        "headline": large,
        "others": [row for row in rows if row not in large],
        "undefined": data.reason,
        "one_sided": data.one_sided,
        "sides": _sides(page),
        "threshold": round(float(page.threshold), 6),
        "drawn": [] if data.reason else _charts(page, data),
        "calibration": None if data.reason else svg_charts.calibration(data),
        "bins": [] if data.reason else curves.calibration(data.sick, data.scores, data.codes),
        "own": own,
        "percent": percent,
        "there": None if own is None or percent is None else _there(own, percent),
        "data": None if data.reason else embedded(_live(page, data)),
        "confusion": _confusion(page) if len(page.classes) > 2 and data.reason is None else None,
        "training": svg_charts.history(page.history) if page.history else [],
        "steps": {name: n for name, n in page.flow.items() if not name.startswith(EXCLUDED)},
        "excluded": {n.removeprefix(EXCLUDED): c for n, c in page.flow.items() if n.startswith(EXCLUDED)},
        "seen": None if page.shared is None else sum(page.shared.values()),
        "without": [] if page.without_shared is None else _beside(large, page.without_shared),
        "subgroups": [] if page.subgroups is None else _subgroups(page.subgroups),
    }


def _scores(page: ReportPage) -> Scores:
    threshold = page.threshold if len(page.classes) == 2 else None
    return Scores(
        sick=np.asarray(page.labels) > 0,
        scores=tumour_probability(np.asarray(page.probabilities)),
        threshold=threshold,
        codes=None if page.groups is None else group_codes(page.groups),
    )


def _sides(page: ReportPage) -> tuple[str, str]:
    return page.classes[0], page.classes[1] if len(page.classes) == 2 else "any tumour"


def _charts(page: ReportPage, data: Scores) -> list[svg_charts.Chart]:
    """The charts in which the slider moves a mark."""
    scores = svg_charts.histogram(data, _sides(page), page.threshold)
    if data.one_sided:
        return [scores]
    own = _at_threshold(data.sick, data.scores, page.threshold)
    found, called = own["tp"] / (own["tp"] + own["fn"]), own["tp"] + own["fp"]
    curve = svg_charts.roc(data, (own["fp"] / (own["fp"] + own["tn"]), found))
    return [curve, svg_charts.precision_recall(data, (found, own["tp"] / called) if called else None), scores]


def _at_threshold(sick: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, int]:
    """Confusion counts of a tumour of any kind against none."""
    called = scores >= threshold
    cells = {"tp": called & sick, "fn": ~called & sick, "fp": called & ~sick, "tn": ~called & ~sick}
    return {name: int(cell.sum()) for name, cell in cells.items()}


def _live(page: ReportPage, data: Scores) -> dict[str, Any]:
    """What the script computes from: counts by step of 0.001, so that the page is small for any N."""
    groups = curves.by_step(data.sick, data.scores)
    own = _at_threshold(data.sick, data.scores, page.threshold)
    return {
        "sick": groups.sick.tolist(),
        "well": groups.well.tolist(),
        "own": {**own, "threshold": float(page.threshold)},
        "names": list(_sides(page)),
    }


def _confusion(page: ReportPage) -> list[list[int]]:
    called = predicted_classes(np.asarray(page.probabilities), page.threshold)
    counts: list[list[int]] = confusion(np.asarray(page.labels, np.int64), called, len(page.classes)).tolist()
    return counts


def _percent(page: ReportPage, own: Mapping[str, int]) -> float:
    """Prevalence that the page begins with, in per cent: the stated one, else that of the set."""
    if page.prevalence is not None:
        return round(100 * page.prevalence, 6)
    return round(100 * (own["tp"] + own["fn"]) / sum(own.values()), 1)


def _there(own: Mapping[str, int], percent: float) -> tuple[float, float]:
    """PPV and NPV at a prevalence; NaN where nothing is called so."""
    counts = np.array([[own["tn"], own["fp"]], [own["fn"], own["tp"]]])
    ppv, npv = predictive_values(counts, percent / 100)
    return float(ppv), float(npv)


def _beside(large: Sequence[dict[str, Any]], without: pa.Table) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The important figures, with those of fewer samples."""
    other = as_mapping(without)
    return [(row, dict(other[row["metric"]])) for row in large]


def _subgroups(table: pa.Table) -> list[dict[str, Any]]:
    """A row for each subgroup, with those of its figures that a page has room for."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in table.to_pylist():
        line = found.setdefault((row["column"], row["value"]), {**row, "figures": {}})
        if row["metric"] in OF_SUBGROUPS:
            line["figures"][row["metric"]] = {**row, "value": row["figure"]}
    return list(found.values())


def _png(picture: bytes | Path) -> str:
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _source(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
