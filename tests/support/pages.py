"""Pages to test with."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brainscale.evaluation.report import plots
from brainscale.evaluation.report.page import Case, ReportPage, write_report
from brainscale.stats import metrics
from brainscale.stats.subgroups import by_column

CLASSES = ("no_tumour", "tumour")
EVIL = "</script><script>alert(1)</script>&\"'\u2028.png"


def scores(n: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """labels [n] and probabilities [n, 2], with errors on both sides."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % 5 < 2).astype(np.int64)
    tumour = 1 / (1 + np.exp(-draw.normal(np.where(labels, 1.6, -1.6), 1.5)))
    return labels, np.stack([1 - tumour, tumour], 1)


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 64), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def case(sample_id: str = "a.png", shown: bytes | None = None) -> Case:
    return Case(sample_id=sample_id, label="tumour", prediction="no_tumour", probability=0.1, picture=shown)


def plot(folder: Path) -> plots.Plot:
    """A picture to take along; drawing a real one takes seconds."""
    path = folder / f"{EVIL.replace('/', '')}"
    path.write_bytes(picture())
    return plots.Plot(path=path, svg=path.with_suffix(".svg"), title=f"ROC {EVIL}", alt="")


def history(epochs: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": 0.7 / epoch,
            "val_loss": 0.8 / epoch + 0.01 * epoch,
            "train_accuracy": 1 - 0.4 / epoch,
            "val_accuracy": 1 - 0.5 / epoch,
            "best": epoch <= 5,
        }
        for epoch in range(1, epochs + 1)
    ]


def page(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str] = CLASSES, **more: Any) -> ReportPage:
    """The least that a report can be made of, and `more`."""
    figures = metrics.compute_metrics(labels, probabilities, classes, more.get("threshold", 0.5))
    least: dict[str, Any] = {"title": "brainmrnet on test", "threshold": 0.5, "threshold_source": "fixed"}
    return ReportPage(metrics=figures, classes=classes, labels=labels, probabilities=probabilities, **(least | more))


def full(folder: Path, threshold: float = 0.4237) -> ReportPage:
    """Everything a report can hold, and a name that tries to be a script in each place a name can stand."""
    labels, probabilities = scores()
    return page(
        labels,
        probabilities,
        (f"none{EVIL}", f"tumour{EVIL}"),
        title=f"brainmrnet on {EVIL}",
        threshold=threshold,
        threshold_source=f"highest Youden index on val {EVIL}",
        temperature_source="1.31 (lowest log loss on val)",
        plots=[plot(folder)],
        history=history(),
        worst=[case(EVIL, picture(1)), case("a/very/long/" + "name" * 30 + ".png", picture(2)), case("plain.png")],
        uncertain=[case(f"case {i}.png", picture(i)) for i in range(3)],
        flow={"files seen": 1234, "samples": 1200, "used": 160, "excluded: empty slice": 30, f"excluded: {EVIL}": 4},
        duplicates={"groups": 12, "copies": 31, EVIL: 1},
        looks=3,
        shared={"bytes": 1400, "picture": 2},
        without_shared=metrics.compute_metrics(labels[:60], probabilities[:60], CLASSES, threshold),
        subgroups=by_column(
            labels, probabilities, np.where(np.arange(160) < 150, "female", EVIL), CLASSES, column=f"sex{EVIL}"
        ),
        facts={"seed": 42, "weights sha256": "ab" * 32, EVIL: EVIL},
    )


def written(folder: Path, page: ReportPage) -> str:
    write_report(folder / "report.html", page)
    return (folder / "report.html").read_text(encoding="utf-8")
