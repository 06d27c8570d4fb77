"""report.html: one file that needs no network."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa

from brainscale.files import replacing
from brainscale.report.plots import Plot

NAMES = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "macro_precision": "Macro precision (“Avg Precision”)",
    "macro_recall": "Macro recall (“Avg Recall”)",
}


def write(
    path: Path,
    *,
    title: str,
    metrics: pa.Table,
    plots: Sequence[Plot],
    facts: Mapping[str, str],
    worst: Sequence[Mapping[str, Any]],
) -> None:
    """Render the report; every text from outside is escaped.

    Args:
        path: appears whole or not at all.
        title: of the page.
        metrics: of schema METRICS.
        plots: pictures to embed.
        facts: provenance, by name.
        worst: wrong predictions, the surest first: sample_id, label, prediction, probability.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainscale", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    pictures = [(p, base64.b64encode(p.path.read_bytes()).decode()) for p in plots]
    text = environment.get_template("report.html.j2").render(
        title=title, metrics=metrics.to_pylist(), names=NAMES, pictures=pictures, facts=facts, worst=worst
    )
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
