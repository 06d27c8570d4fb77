"""report.html: one file that needs no network and runs no script but its own."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from brainscale.evaluation.header_comparison import CONTROL, HeaderComparison
from brainscale.evaluation.matched import MatchedEvaluation
from brainscale.evaluation.report import curves, svg_charts
from brainscale.evaluation.report.cases import CaseRow, describe_missing, scale_colours
from brainscale.evaluation.report.curves import ConfusionCounts, TumourScores
from brainscale.evaluation.report.novelty import NoveltySection
from brainscale.evaluation.report.plots import Plot
from brainscale.evaluation.report.summary import Sampling, describe_findings, describe_leakage, describe_slices
from brainscale.formatting import format_number
from brainscale.models.faithfulness import FaithfulnessSummary
from brainscale.stats.confusion import confusion_matrix
from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metric_names import CLASS_NAMES, metric_name
from brainscale.stats.multiclass import ANY_TUMOUR, OF_EACH_CLASS, sort_into_blocks
from brainscale.stats.weighted_metrics import predictive_values
from brainscale.storage.local import replacing

FOLDER = Path(__file__).parent
SUBGROUP_METRICS = ("auroc", "sensitivity", "specificity")
SUBGROUP_METRICS_MULTICLASS = ("tumour_auroc", "tumour_sensitivity", "tumour_specificity")
HEADLINE = ("auroc", "sensitivity", "specificity", "ppv", "npv", "accuracy")
HEADLINE_MULTICLASS = (
    *("accuracy", "balanced_accuracy", "macro_auroc"),
    *("tumour_auroc", "tumour_sensitivity", "tumour_specificity"),
)


@dataclass(frozen=True, kw_only=True)
class SampleFlow:
    """Numbers of samples on the way from the files to the metrics.

    Attributes:
        steps: name of each step → number.
        excluded: reason → number of samples that were excluded for it.
    """

    steps: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReportPage:
    """Contents of the report; every text may come from outside and is escaped.

    Attributes:
        title: title of the page: the model and the data.
        about: what stands under the title, name → value: data, date, model, command.
        samples: labels and probabilities; bands and bars take groups into account.
        metrics: table of schema METRICS; the important six stand large, the rest in a table.
        sampling: what the samples are, for the first sentence.
        control: the model beside the header-only control.
        matched: the model on pairs of samples that agree in a column.
        threshold_source: how the threshold was chosen.
        no_threshold: why there is none, so that nothing is predicted; None where there is one.
        prevalence: share of tumours where the model will be used.
        plots: plots to download, embedded as PNG.
        history: rows of schema HISTORY, where the training is known.
        cases: single samples in rows by outcome.
        unlabelled: number of samples that were scored but have no label.
        unknown_patients: for how many samples no patient is known, in one sentence; None if all are known.
        flow: from the files to the samples used.
        duplicates: name → number, such as groups and duplicates.
        leaked: what they share with training → number of samples that trained or selected the model; None where that
            is unknown.
        without_leaked: table of schema METRICS of the other samples, where there are both.
        looks: number of models of this run that were evaluated on this test set, this one included.
        looks_note: why the run does not count this one; None if it does.
        degenerate: one sentence where the model does not tell samples apart.
        faithfulness: whether the heatmaps show what the model goes by, where it was measured.
        novelty: how many samples are unusual, and the most unusual ones.
        edited: that the model was edited after training, in one sentence; None if it was not.
        subgroups: table of schema SUBGROUPS.
        facts: provenance, group → name → value.
    """

    title: str
    samples: LabelledProbabilities
    metrics: pa.Table
    threshold_source: str
    no_threshold: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    control: HeaderComparison | None = None
    matched: MatchedEvaluation | None = None
    prevalence: float | None = None
    plots: Sequence[Plot] = ()
    history: Sequence[Mapping[str, Any]] | None = None
    cases: Sequence[CaseRow] = ()
    unlabelled: int = 0
    unknown_patients: str | None = None
    flow: SampleFlow = field(default_factory=SampleFlow)
    duplicates: Mapping[str, int] = field(default_factory=dict)
    leaked: Mapping[str, int] | None = None
    without_leaked: pa.Table | None = None
    looks: int | None = None
    looks_note: str | None = None
    degenerate: str | None = None
    faithfulness: FaithfulnessSummary | None = None
    novelty: NoveltySection | None = None
    edited: str | None = None
    subgroups: pa.Table | None = None
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NamedEstimate(Estimate):
    """A metric with its name for people, and what it says."""

    metric: str
    name: str
    about: str


@dataclass(frozen=True, kw_only=True)
class SubgroupLine:
    """A subgroup with those of its metrics that a page has room for."""

    column: str
    value: str | None
    samples: int
    estimates: list[Estimate]


def write_report(path: Path, page: ReportPage) -> None:
    """Write the report, which appears whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainscale", "evaluation/report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, count="{:,}".format, picture=_data_uri)
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    text = environment.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704
        policy=security_policy(style, script),
        **_contents(page),
    )
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def security_policy(style: str, script: str) -> str:
    """Return the page's Content-Security-Policy: this style and this script by their hashes, images within the page."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def embed_json(data: object) -> Markup:
    """Return JSON for a script element: no text in it can end the element or a line."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 and U+2029 are escaped
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - no sign of markup is left


def _contents(page: ReportPage) -> dict[str, Any]:
    """Return what the template shows besides the page's own fields."""
    metrics = _named(page.metrics, page.prevalence)
    names = page.samples.classes
    blocks = sort_into_blocks(metrics, names)
    important, in_subgroups = HEADLINE, SUBGROUP_METRICS
    if len(names) > 2:
        important, in_subgroups = HEADLINE_MULTICLASS, SUBGROUP_METRICS_MULTICLASS
    headline = [metrics[name] for name in important if name in metrics]
    leak_count = None if page.leaked is None else sum(page.leaked.values())
    without = {} if page.without_leaked is None else estimates_of(page.without_leaked)
    return {
        "findings": describe_findings(page.samples, metrics, page.sampling, page.no_threshold),
        "leakage": describe_leakage(leak_count) if leak_count else None,
        "control_name": CONTROL,
        "cases_note": describe_slices(page.sampling.unit),
        "missing_pictures": describe_missing(page.cases),
        "scale": scale_colours(),
        "headline": headline,
        "others": [metrics[name] for name in blocks.together if name not in important],
        "by_class": {name: [metrics[metric] for metric in own] for name, own in blocks.by_class.items()},
        "class_metric_names": [CLASS_NAMES[metric].name for metric in OF_EACH_CLASS],
        "any_tumour": [metrics[name] for name in blocks.any_tumour],
        "class_counts": np.bincount(page.samples.labels, minlength=len(names)).tolist(),
        "confusion": None if page.no_threshold else confusion_matrix(page.samples).tolist(),
        "classes": _two_classes(page.samples),
        "threshold": round(float(page.samples.threshold), 6),
        "training": svg_charts.history_charts(page.history) if page.history else [],
        "leak_count": leak_count,
        "with_and_without": [(estimate, without[estimate.metric]) for estimate in headline] if without else [],
        "subgroup_headings": [metric_name(metric).name for metric in in_subgroups],
        "subgroups": [] if page.subgroups is None else _subgroups(page.subgroups, in_subgroups),
        **_threshold_section(page),
    }


def _threshold_section(page: ReportPage) -> dict[str, Any]:
    """Return what the section on threshold and curves shows; little where a score is not a finite number."""
    samples, scores = page.samples, TumourScores.of(page.samples)
    undefined = scores.undefined or page.no_threshold
    section: dict[str, Any] = {"undefined": undefined, "no_curve": scores.no_curve, "own": None, "data": None}
    if undefined:
        return section
    threshold = float(samples.threshold)
    own = curves.count_at_threshold(scores.has_tumour, scores.scores, threshold)
    percent = _percent(page.prevalence, own)
    return section | {
        "own": own,
        "percent": percent,
        "at_prevalence": _predictive_values(own, percent),
        "charts": _charts(scores, own, threshold, _two_classes(samples)),
        "calibration": svg_charts.calibration_chart(scores),
        "bins": curves.calibration_bins(scores.has_tumour, scores.scores, scores.codes),
        "data": embed_json(_script_data(scores, own, threshold, _two_classes(samples))),
    }


def _named(table: pa.Table, prevalence: float | None) -> dict[str, NamedEstimate]:
    return {
        metric: NamedEstimate(metric=metric, **vars(metric_name(metric, prevalence)), **vars(estimate))
        for metric, estimate in estimates_of(table).items()
    }


def _two_classes(samples: LabelledProbabilities) -> tuple[str, str]:
    return samples.classes[0], samples.classes[1] if len(samples.classes) == 2 else ANY_TUMOUR


def _charts(
    scores: TumourScores, own: ConfusionCounts, threshold: float, classes: tuple[str, str]
) -> list[svg_charts.Chart]:
    """Return the charts in which the slider moves a mark."""
    histogram = svg_charts.score_histogram(scores, classes, threshold)
    if scores.no_curve:
        return [histogram]
    sensitivity, predicted = own.tp / own.with_tumour, own.tp + own.fp
    return [
        svg_charts.roc_chart(scores, (own.fp / own.without_tumour, sensitivity)),
        svg_charts.precision_recall_chart(scores, (sensitivity, own.tp / predicted) if predicted else None),
        histogram,
    ]


def _script_data(
    scores: TumourScores, own: ConfusionCounts, threshold: float, classes: tuple[str, str]
) -> dict[str, Any]:
    """Return what the script computes from: counts by step of 0.001, so that the page is small for any n."""
    counts = curves.count_by_step(scores.has_tumour, scores.scores)
    return {
        "with_tumour": counts.with_tumour.tolist(),
        "without_tumour": counts.without_tumour.tolist(),
        "own": {**asdict(own), "threshold": threshold},
        "names": list(classes),
    }


def _percent(prevalence: float | None, own: ConfusionCounts) -> float:
    """Return the prevalence that the page begins with, in per cent: the stated one, else that of the set."""
    if prevalence is not None:
        return round(100 * prevalence, 6)
    return round(100 * own.with_tumour / (own.with_tumour + own.without_tumour), 1)


def _predictive_values(own: ConfusionCounts, percent: float) -> tuple[float, float]:
    """Return PPV and NPV at a prevalence; NaN where nothing is predicted so."""
    ppv, npv = predictive_values(np.array([[own.tn, own.fp], [own.fn, own.tp]]), percent / 100)
    return float(ppv), float(npv)


def _subgroups(table: pa.Table, metrics: Sequence[str]) -> Iterable[SubgroupLine]:
    lines: dict[tuple[str, str | None], SubgroupLine] = {}
    for row in table.to_pylist():
        column, subgroup, samples, metric = (row.pop(name) for name in ("column", "subgroup", "samples", "metric"))
        line = SubgroupLine(column=column, value=subgroup, samples=samples, estimates=[])
        line = lines.setdefault((column, subgroup), line)
        if metric in metrics:
            line.estimates.append(Estimate(**row))
    return lines.values()


def _data_uri(picture: bytes | Path) -> str:
    """Return a PNG or a JPEG as an address within the page."""
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _source(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
