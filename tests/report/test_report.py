from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from brainscale import metrics
from brainscale.report import html, plots

CLASSES = ("no_tumour", "tumour")


class Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def report(folder: Path, labels: np.ndarray, name: str = "a.png") -> str:
    scores = np.linspace(0.1, 0.9, len(labels))
    probabilities = np.stack([1 - scores, scores], 1)
    html.write(
        folder / "report.html",
        title="brainmrnet on test",
        metrics=metrics.evaluate(labels, probabilities, CLASSES),
        plots=plots.draw(labels, probabilities, CLASSES, 0.5, folder / "plots"),
        facts={"seed": "42", "run": name},
        worst=[{"sample_id": name, "label": "tumour", "prediction": "no_tumour", "probability": 0.1}],
    )
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    text = report(tmp_path, np.array([0, 1, 0, 1, 1, 0, 1, 1]))
    tags = Page(text).tags
    assert [t for t, _ in tags].count("h1") == 1
    assert not [t for t, _ in tags if t in ("script", "link", "iframe", "object")]
    assert all(str(a[k]).startswith("data:") for _, a in tags for k in ("src", "href") if k in a)
    images = [a for t, a in tags if t == "img"]
    assert len(images) == 2
    assert "area of 0." in str(images[0]["alt"])
    assert "called" in str(images[1]["alt"])
    assert "Not a medical device" in text
    assert "DeLong" in text
    for name in ("roc.png", "confusion.png"):
        with Image.open(tmp_path / "plots" / name) as picture:
            assert min(picture.size) > 500


def test_a_name_is_never_markup(tmp_path: Path) -> None:
    text = report(tmp_path, np.array([0, 1, 0, 1]), name="<script>alert(1)</script>&\"'.png")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_one_class_has_no_curve_and_says_so(tmp_path: Path) -> None:
    text = report(tmp_path, np.ones(4, int))
    assert "No ROC curve: only one of the two sides has samples." in text
    assert "no sample of class no_tumour" in text


def test_more_than_two_classes_have_no_threshold(tmp_path: Path) -> None:
    drawn = plots.draw(np.arange(6) % 3, np.eye(3)[np.arange(6) % 3], ("none", "a", "b"), 0.5, tmp_path)
    assert [p.title for p in drawn] == ["ROC: a tumour against none", "Confusion matrix, the likeliest class"]


def test_a_probability_that_is_no_number_has_no_curve(tmp_path: Path) -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    roc = plots.draw(np.array([0, 1, 1]), probabilities, CLASSES, 0.5, tmp_path)[0]
    assert roc.alt == "No ROC curve: a probability is not a finite number."
