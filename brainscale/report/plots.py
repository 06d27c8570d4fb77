"""ROC curve and confusion matrix as PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from brainscale.calls import predicted, tumour
from brainscale.metrics import auroc, confusion

BLUE, GREY = "#0072B2", "#6b6b6b"  # of Okabe and Ito's colour-blind-safe palette
DPI = 150


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture and what it shows, for those who do not see it."""

    path: Path
    title: str
    alt: str


def draw(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], threshold: float, folder: Path
) -> list[Plot]:
    """Write roc.png and confusion.png.

    Args:
        labels: int [N], class indices.
        probabilities: float [N, classes].
        classes: names.
        threshold: of the probability of a tumour.
        folder: made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    called = predicted(probabilities, threshold)
    return [
        _roc(labels, probabilities, threshold, folder / "roc.png"),
        _confusion(confusion(labels, called, len(classes)), classes, threshold, folder / "confusion.png"),
    ]


def _roc(labels: np.ndarray, probabilities: np.ndarray, threshold: float, path: Path) -> Plot:
    figure, title = Figure(figsize=(4.5, 4.5), dpi=DPI, layout="constrained"), "ROC: a tumour against none"
    axes = figure.add_subplot(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    sick, scores = labels > 0, tumour(probabilities)
    if sick.all() or not sick.any():
        alt = "No ROC curve: only one of the two sides has samples."
        axes.text(0.5, 0.5, "not defined:\nonly one side has samples", ha="center", va="center")
        axes.set_title(f"n = {len(labels)}")
    elif not np.isfinite(scores).all():
        alt = "No ROC curve: a probability is not a finite number."
        axes.text(0.5, 0.5, "not defined:\na probability is not finite", ha="center", va="center")
        axes.set_title(f"n = {len(labels)}")
    else:
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        binary = auroc(sick.astype(np.int64), np.stack([1 - scores, scores], 1), ("none", "tumour"))
        false, true, _ = roc_curve(sick, scores, drop_intermediate=False)
        axes.plot(false, true, color=BLUE, linewidth=2)
        if probabilities.shape[1] == 2:  # with more classes, the likeliest is called: no threshold
            at = (float((scores[~sick] >= threshold).mean()), float((scores[sick] >= threshold).mean()))
            axes.plot(*at, marker="o", color=BLUE, linestyle="none", label=f"threshold {threshold:g}")
            axes.legend(loc="lower right", frameon=False)
        alt = f"ROC curve with an area of {binary.value:.3f} over {len(labels)} samples."
        axes.set_title(f"AUROC {binary.value:.3f}, n = {len(labels)}")
    return _save(figure, path, title, alt)


def _confusion(counts: np.ndarray, classes: Sequence[str], threshold: float, path: Path) -> Plot:
    figure = Figure(figsize=(4.5, 4.5), dpi=DPI, layout="constrained")
    title = "Confusion matrix" + (f" at threshold {threshold:g}" if len(classes) == 2 else ", the likeliest class")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=f"n = {counts.sum()}")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=14,
                  color="white" if shares[row, column] > 0.5 else "black")  # fmt: skip
    cells = [f"{counts[i, j]} of {a} called {b}" for i, a in enumerate(classes) for j, b in enumerate(classes)]
    return _save(figure, path, title, f"Confusion matrix: {', '.join(cells)}.")


def _save(figure: Figure, path: Path, title: str, alt: str) -> Plot:
    FigureCanvasAgg(figure).print_png(str(path), pil_kwargs={"compress_level": 9})
    return Plot(path=path, title=title, alt=alt)
