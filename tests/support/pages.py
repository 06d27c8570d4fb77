"""Report pages to test with."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from brainscale.evaluation.header_comparison import HeaderComparison, compare_with_headers
from brainscale.evaluation.report.cases import Case, CaseRow
from brainscale.evaluation.report.novelty import NoveltySection, UnusualCase
from brainscale.evaluation.report.page import ReportPage, SampleFlow, write_report
from brainscale.evaluation.report.plots import Plot
from brainscale.evaluation.report.summary import Sampling
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from brainscale.stats.subgroups import measure_subgroups
from brainscale.training.history import Epoch
from tests.support.samples import CLASSES, labelled

HEADERS = ("nbytes", "width", "height")
EVIL = "</script><script>alert(1)</script>&\"'\u2028.png"


def random_samples(
    n: int = 160, seed: int = 0, *, classes: Sequence[str] = CLASSES, threshold: float = 0.5
) -> LabelledProbabilities:
    """Samples of two classes, some of each classified wrongly."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % 5 < 2).astype(np.int64)
    tumour = 1 / (1 + np.exp(-draw.normal(np.where(labels, 1.6, -1.6), 1.5)))
    return labelled(labels, np.stack([1 - tumour, tumour], 1), classes, threshold)


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def case(sample_id: str = "a.png", shown: bytes | None = None, like_it: int = 0) -> Case:
    """A missed tumour; one without a picture is withheld."""
    pictures: dict[str, Any] = {"picture": shown, "heatmap": shown, "withheld": shown is None}
    texts: dict[str, Any] = {"sample_id": sample_id, "label": "tumour", "prediction": "no_tumour"}
    return Case(**texts, **pictures, probability=0.1, like_it=like_it)


@cache
def control_of_full_page() -> HeaderComparison:
    """The control beside the samples of `full_page`, which takes seconds."""
    return control(random_samples())


def control(samples: LabelledProbabilities) -> HeaderComparison:
    """A model beside a control that is little better than chance."""
    tables = [f"{i}.png" for i in range(len(samples))]
    manifest = pa.table(
        {
            "sample_id": tables,
            "label": [samples.classes[i] for i in samples.labels],
            "group": tables,
            "error_code": pa.nulls(len(tables), pa.string()),
            "mode": ["L"] * len(tables),
            **{name: np.random.default_rng(i).integers(100, 900, len(tables)) for i, name in enumerate(HEADERS)},
        }
    )
    return compare_with_headers(manifest, manifest["sample_id"], samples)


def plot(folder: Path) -> Plot:
    """A plot to download; drawing a real one takes seconds."""
    path = folder / f"{EVIL.replace('/', '')}"
    path.write_bytes(picture())
    return Plot(path=path, svg=path.with_suffix(".svg"), title=f"ROC {EVIL}", alt="")


def history(epochs: int = 8) -> list[Epoch]:
    return [
        {
            "epoch": epoch,
            "learning_rate": 0.001,
            "train_loss": 0.7 / epoch,
            "val_loss": 0.8 / epoch + 0.01 * epoch,
            "train_accuracy": 1 - 0.4 / epoch,
            "val_accuracy": 1 - 0.5 / epoch,
            "best": epoch <= 5,
            "weights_sha256": "ab" * 32,
            "hardware": "cpu: a processor",
        }
        for epoch in range(1, epochs + 1)
    ]


def unusual_case(sample_id: str, novelty: float, **more: Any) -> UnusualCase:
    """One of the most unusual samples, without a label unless it is in `more`."""
    least: dict[str, Any] = {"label": None, "prediction": "tumour", "probability": 0.25}
    return UnusualCase(sample_id=sample_id, novelty=novelty, **(least | more))


def minimal_page(samples: LabelledProbabilities | None = None, **more: Any) -> ReportPage:
    """The least that a report can be made of, and `more`."""
    samples = random_samples() if samples is None else samples
    least: dict[str, Any] = {"title": "brainmrnet on test", "threshold_source": "fixed", "metrics": measure(samples)}
    return ReportPage(samples=samples, **(least | more))


def full_page(folder: Path, threshold: float = 0.4237) -> ReportPage:
    """Everything a report can hold, and a name that tries to be a script in each place a name can stand."""
    samples = random_samples(classes=(f"none{EVIL}", f"tumour{EVIL}"), threshold=threshold)
    first = random_samples(threshold=threshold).take(np.arange(60))
    missed = [case(EVIL, picture(1)), case("a/very/long/" + "name" * 30 + ".png", picture(2)), case("plain.png")]
    return minimal_page(
        samples,
        title=f"brainmrnet on {EVIL}",
        threshold_source=f"highest Youden index on val {EVIL}",
        about={"Data": f"scans {EVIL}", "Evaluated": "1 May 2026, 12:00 UTC", "Command": f"brainscale evaluate {EVIL}"},
        sampling=Sampling(split="test", patients=55),
        control=control_of_full_page(),
        plots=[plot(folder)],
        history=history(),
        cases=[
            CaseRow(title="Missed tumours (false negatives)", about="3 samples.", cases=missed),
            CaseRow(title="False alarms (false positives)", about="There was no false alarm."),
            CaseRow(
                title="Least certain", about="", cases=[case(f"case {i}.png", picture(i), like_it=i) for i in range(3)]
            ),
        ],
        flow=SampleFlow(steps={"files": 1234, "samples": 1200, "used": 160}, excluded={"empty slice": 30, EVIL: 4}),
        duplicates={"groups": 12, "duplicates": 31, EVIL: 1},
        looks=3,
        novelty=NoveltySection(
            source=f"distance of {EVIL}",
            samples=160,
            unusual=3,
            beyond_all=1,
            cases=[
                unusual_case(EVIL, 1.0, label=EVIL, picture=picture(4)),
                unusual_case("a/very/long/" + "name" * 30 + ".png", 0.99, withheld=True),
            ],
        ),
        leaked={"bytes": 1400, "picture": 2},
        without_leaked=measure(first),
        subgroups=measure_subgroups(
            random_samples(), np.where(np.arange(160) < 150, "female", EVIL), column=f"sex{EVIL}"
        ),
        facts={"Model": {"seed": "42", "weights sha256": "ab" * 32}, EVIL: {EVIL: EVIL}},
    )


def write_page(folder: Path, page: ReportPage) -> str:
    """Write the report and return its text."""
    write_report(folder / "report.html", page)
    return (folder / "report.html").read_text(encoding="utf-8")
