"""README.md of a model's folder: what the model is, what it may be used for, where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pyarrow as pa

from brainscale.formatting import escape_markdown, format_number
from brainscale.models.bundle import ModelInfo
from brainscale.models.claim_checklist import ITEMS, OPEN
from brainscale.stats.metric_names import metric_name
from brainscale.storage.local import replacing

README = "README.md"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a model card tells; every text may come from outside and is escaped.

    Attributes:
        info: the bundle's model.json.
        training: counts and hashes of the training data, name → value.
        metrics: table of schema METRICS, where the model was evaluated.
        evaluated_on: the set those figures are of.
        prevalence: of tumours where the model is to be used, for the figures there.
        provenance: what else is known, name → value.
        claim: answers to items of CLAIM 2024 by number, from 1; they take the place of what the run knows.
    """

    info: ModelInfo
    training: Mapping[str, object] = field(default_factory=dict)
    metrics: pa.Table | None = None
    evaluated_on: str | None = None
    prevalence: float | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)
    claim: Mapping[int, str] = field(default_factory=dict)


def write_model_card(folder: Path, facts: ModelFacts) -> Path:
    """Write README.md into a model's folder; it appears whole or not at all.

    Returns:
        Its path.

    Raises:
        ValueError: an answer to an item that CLAIM does not have.
    """
    strange = sorted(set(facts.claim) - set(range(1, len(ITEMS) + 1)))
    if strange:
        raise ValueError(f"CLAIM 2024 has no item {strange[0]}: items go from 1 to {len(ITEMS)}")
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML: `finalize` escapes every value
        loader=jinja2.PackageLoader("brainscale", "models"),
        finalize=escape_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template("model_card.md.j2").render(
        facts=facts, rows=_rows(facts), provenance=_provenance(facts), checklist=_checklist(facts)
    )
    with replacing(folder / README) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    return folder / README


def _rows(facts: ModelFacts) -> list[dict[str, str]]:
    return [
        {
            "name": metric_name(row["metric"], facts.prevalence)["name"],
            "value": format_number(row["value"]),
            "interval": "–" if row["low"] is None else f"{format_number(row['low'])} to {format_number(row['high'])}",
            "n": format_number(row["n"]),
            "note": "; ".join(filter(None, (row["method"], row["reason"]))),
        }
        for row in (facts.metrics.to_pylist() if facts.metrics is not None else [])
    ]


def _provenance(facts: ModelFacts) -> dict[str, object]:
    info = facts.info
    return {
        "weights sha256": info.weights_sha256,
        "ONNX sha256": info.onnx_sha256,
        "training manifest sha256": info.manifest_sha256,
        "configuration sha256": info.config_sha256,
        "seed": info.seed,
        "epoch": info.epoch,
        **info.versions,
        **facts.provenance,
    }


def _checklist(facts: ModelFacts) -> list[tuple[int, str, str]]:
    answers = _known(facts) | dict(facts.claim)
    return [(number, item, answers.get(number, OPEN)) for number, item in enumerate(ITEMS, 1)]


def _known(facts: ModelFacts) -> dict[int, str]:
    """The items that a run can answer; the rest is for people to say."""
    info, preprocess = facts.info, facts.info.preprocess.model_dump()
    counts = ", ".join(f"{name}: {value}" for name, value in facts.training.items())
    known = {
        1: f"image classification by a convolutional network, {info.architecture}",
        9: f"{', '.join(f'{name} {value}' for name, value in preprocess.items())}; part of the model, in model.json",
        19: f"as the training manifest says, of the fingerprint {info.manifest_sha256}; saved in the run",
        20: "where brainscale split the data, groups: samples of one patient, where known, and near duplicates",
        22: f"{info.architecture}, {info.parameters:,} parameters; input {info.preprocess.image_size} px; outputs: "
        + ", ".join(info.classes),
        23: ", ".join(f"{name} {version}" for name, version in info.versions.items()),
        25: f"the configuration with the fingerprint {info.config_sha256}, saved in the run as config.yaml",
        26: f"{info.epoch_source}: epoch {info.epoch}",
        27: "none: one model",
        40: "see Intended use and limits, above; " + OPEN,
        41: "research use only; " + OPEN,
    }
    if counts:
        known[12] = "samples that cannot be read are left out and counted, see Training data; missing labels: " + OPEN
        known[35] = f"samples: {counts}; patients: {OPEN}"
    if facts.metrics is not None:
        named = ", ".join(row["name"] for row in _rows(facts))
        known |= {28: named, 29: "95 % intervals; the method of each is in the table of figures, above"}
        known |= {
            31: "heatmaps of the worst errors and the least certain cases, in the report; not validated",
            32: f"on {facts.evaluated_on}; see Figures, above" if facts.evaluated_on else OPEN,
            39: "the worst errors are in the report; " + OPEN,
        }
        known |= {37: "see Figures, above; other partitions: " + OPEN, 38: "see Figures, above"}
    return known
