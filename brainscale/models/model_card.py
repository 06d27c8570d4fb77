"""The model card, README.md of a model's folder: what the model is, its intended use, where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pyarrow as pa

from brainscale.formatting import escape_markdown, format_number
from brainscale.models.bundle import EDITED, ModelInfo
from brainscale.models.claim_checklist import ITEMS, OPEN
from brainscale.models.int8 import card_line, read_int8
from brainscale.models.network_spec import ANGLE
from brainscale.stats.estimate import estimates_of
from brainscale.stats.metric_names import CLASS_NAMES, PUBLISHED_NOTE, metric_name
from brainscale.stats.multiclass import OF_EACH_CLASS, sort_into_blocks
from brainscale.stats.units import AGGREGATION_NAMES
from brainscale.storage.local import replacing

README = "README.md"
VIEWS = {
    2: "the image and its mirror image",
    6: f"the image and its mirror image, each as it is and turned by {ANGLE:g}° to either side",
}
"""Number of views → what they are."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Contents of a model card; every text may come from outside and is escaped.

    Attributes:
        info: the bundle's model.json.
        training: facts of the training data, name → value.
        unknown_patients: for how many samples no patient is known, in one sentence; None if all are known.
        metrics: table of schema METRICS, where the model was evaluated.
        evaluated_on: the data of these metrics.
        prevalence: share of tumours where the model will be used, of the metrics that depend on it.
        degenerate: one sentence where the model does not tell the samples of the evaluation apart.
        edited: whether model.json was edited after training.
        for_trying: why the model is for trying only, for one that comes with brainscale.
        provenance: more facts about the origin of the model, name → value.
        claim: answers to items of CLAIM 2024 by number, from 1; they replace what the run can answer.
    """

    info: ModelInfo
    training: Mapping[str, object] = field(default_factory=dict)
    unknown_patients: str | None = None
    metrics: pa.Table | None = None
    evaluated_on: str | None = None
    prevalence: float | None = None
    degenerate: str | None = None
    edited: bool = False
    for_trying: str | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)
    claim: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _MetricLine:
    """A metric as the card's table shows it."""

    name: str
    value: str
    interval: str
    n: str
    note: str


def write_model_card(folder: Path, facts: ModelFacts) -> Path:
    """Write README.md into a model's folder, whole or not at all, and return its path.

    Raises:
        ValueError: an answer to an item that CLAIM does not have.
    """
    unknown = sorted(set(facts.claim) - set(range(1, len(ITEMS) + 1)))
    if unknown:
        raise ValueError(f"CLAIM 2024 has no item {unknown[0]}: items go from 1 to {len(ITEMS)}")
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML: `finalize` escapes every value
        loader=jinja2.PackageLoader("brainscale", "models"),
        finalize=escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("model_card.md.j2").render(
        facts=facts,
        blocks=_blocks(facts),
        class_metric_names=[CLASS_NAMES[metric].name for metric in OF_EACH_CLASS],
        provenance=_provenance(facts),
        checklist=_checklist(facts),
        edited_note=EDITED,
        published_note=PUBLISHED_NOTE,
        aggregation_names=AGGREGATION_NAMES,
        views_note=VIEWS,
        int8_line=card_line(read_int8(folder)),
    )
    with replacing(folder / README) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    return folder / README


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """The metrics in blocks, as `sort_into_blocks` sorts them."""

    together: list[_MetricLine]
    by_class: dict[str, list[_MetricLine]]
    any_tumour: list[_MetricLine]


def _blocks(facts: ModelFacts) -> _Blocks:
    lines = _metrics(facts)
    blocks = sort_into_blocks(lines, list(facts.info.classes))
    return _Blocks(
        together=[lines[name] for name in blocks.together],
        by_class={class_name: [lines[name] for name in names] for class_name, names in blocks.by_class.items()},
        any_tumour=[lines[name] for name in blocks.any_tumour],
    )


def _metric_names(facts: ModelFacts) -> str:
    """Return the names of the metrics, those of each class once."""
    blocks = _blocks(facts)
    names = [line.name for line in (*blocks.together, *blocks.any_tumour)]
    of_each = f"; of each class: {', '.join(CLASS_NAMES[metric].name for metric in OF_EACH_CLASS)}"
    return ", ".join(names) + (of_each if blocks.by_class else "")


def _metrics(facts: ModelFacts) -> dict[str, _MetricLine]:
    return {
        metric: _MetricLine(
            name=metric_name(metric, facts.prevalence).name,
            value=format_number(estimate.value),
            interval="–"
            if estimate.low is None
            else f"{format_number(estimate.low)} to {format_number(estimate.high)}",
            n=format_number(estimate.n),
            note="; ".join(filter(None, (estimate.method, estimate.reason))),
        )
        for metric, estimate in ({} if facts.metrics is None else estimates_of(facts.metrics)).items()
    }


def _provenance(facts: ModelFacts) -> dict[str, object]:
    info = facts.info
    return {
        "model.json sha256": info.model_sha256,
        "weights sha256": info.weights_sha256,
        "ONNX sha256": info.onnx_sha256,
        "novelty sha256": info.novelty_sha256 or "none",
        "training manifest sha256": info.manifest_sha256,
        "configuration sha256": info.config_sha256,
        "seed": "those of the members" if info.seed is None else info.seed,
        "epoch": "those of the members" if info.epoch is None else info.epoch,
        **info.versions,
        **facts.provenance,
    }


def _checklist(facts: ModelFacts) -> list[tuple[int, str, str]]:
    answers = _answers(facts) | dict(facts.claim)
    return [(number, item, answers.get(number, OPEN)) for number, item in enumerate(ITEMS, 1)]


def _answers(facts: ModelFacts) -> dict[int, str]:
    """Return answers to the items that a run can answer; the authors answer the others."""
    info, preprocess = facts.info, facts.info.preprocess.model_dump()
    counts = ", ".join(f"{name}: {value}" for name, value in facts.training.items())
    answers = {
        1: f"image classification by a convolutional network, {info.architecture}",
        9: f"{', '.join(f'{name} {value}' for name, value in preprocess.items())}; part of the model, in model.json",
        19: f"given by the training manifest with the fingerprint {info.manifest_sha256}, saved in the run",
        20: "groups, if brainscale split the data: samples of one patient, where known, and near duplicates",
        22: f"{info.architecture}, {info.parameters:,} parameters; input {info.preprocess.image_size} px; outputs: "
        + ", ".join(info.classes),
        23: ", ".join(f"{name} {version}" for name, version in info.versions.items()),
        25: f"given by the configuration with the fingerprint {info.config_sha256}, saved in the run as config.yaml",
        26: info.epoch_source if info.epoch is None else f"{info.epoch_source}: epoch {info.epoch}",
        27: f"mean of the probabilities of {len(info.members)} models" if info.members else "none: one model",
        40: "see Intended use and limits, above; " + OPEN,
        41: "research use only; " + OPEN,
    }
    if counts:
        answers[12] = "samples that cannot be read are excluded and counted, see Training data; missing labels: " + OPEN
        answers[35] = f"samples: {counts}; patients: {OPEN}"
    if facts.metrics is not None:
        answers |= {
            28: _metric_names(facts),
            29: "95 % confidence intervals; their methods are in the table of metrics, above",
            31: "heatmaps, and how faithful they are beside random maps, in the report",
            32: f"on {facts.evaluated_on}; see Metrics, above" if facts.evaluated_on else OPEN,
            37: "see Metrics, above; other partitions: " + OPEN,
            38: "see Metrics, above",
            39: "the worst errors are in the report; " + OPEN,
        }
    return answers
