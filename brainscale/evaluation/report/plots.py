"""Plots for papers and slides, each as PNG and SVG: ROC, precision and recall, calibration, scores, confusion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from brainscale.evaluation.report import curves
from brainscale.stats.decisions import predicted_classes, tumour_probability
from brainscale.stats.metrics import auroc, confusion
from brainscale.stats.resampling import group_codes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6b6b6b"  # of Okabe and Ito's colour-blind-safe palette
DPI, HISTOGRAM_BINS = 150, 50
UNIT = (-0.02, 1.02)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture and what it shows, for those who do not see it; `path` is a PNG, `svg` the same as SVG."""

    path: Path
    svg: Path
    title: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is plotted.

    Attributes:
        sick: bool [N], whether each sample has a tumour.
        scores: float [N].
        threshold: where one is used.
        codes: int [N], number of each sample's group; each its own without them.
    """

    sick: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    threshold: float | None
    codes: npt.NDArray[np.int64] | None = None

    @cached_property
    def ranked(self) -> curves.Ranked:
        """The samples by score, as they are and resampled: for all curves the same."""
        return curves.by_score(self.sick, self.scores, self.codes)

    @property
    def reason(self) -> str | None:
        """Why nothing can be drawn from the scores."""
        if not np.isfinite(self.scores).all():
            return "a probability is not a finite number"
        return None if len(self.scores) else "there are no samples"

    @property
    def one_sided(self) -> str | None:
        """Why no curve sets one side against the other."""
        return self.reason or ("only one of the two sides has samples" if len(set(self.sick.tolist())) < 2 else None)


def draw(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    folder: Path,
    groups: Sequence[Any] | None = None,
) -> list[Plot]:
    """Write roc, precision-recall, calibration, scores and confusion, each as .png and .svg.

    The same input gives the same bytes.

    Args:
        labels: int [N], class indices.
        probabilities: float [N, classes].
        classes: names.
        threshold: of the probability of a tumour.
        folder: made if it is not there.
        groups: [N], patient or group of duplicates: bands and bars know of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binary = probabilities.shape[1] == 2  # with more classes, the likeliest is called: no threshold
    data = Scores(
        sick=labels > 0,
        scores=tumour_probability(probabilities),
        threshold=threshold if binary else None,
        codes=None if groups is None else group_codes(groups),
    )
    counts = confusion(labels, predicted_classes(probabilities, threshold), len(classes))
    return [
        _plot(folder / "roc", "ROC: a tumour against none", "ROC curve", data.one_sided, lambda a: _roc(a, data)),
        _plot(
            folder / "precision-recall",
            "Precision and recall: a tumour against none",
            "precision-recall curve",
            data.one_sided,
            lambda a: _precision_recall(a, data),
        ),
        _plot(folder / "calibration", "Calibration", "calibration plot", data.reason, lambda a: _calibration(a, data)),
        _plot(folder / "scores", "Scores of both sides", "histogram", data.reason, lambda a: _histogram(a, data)),
        _confusion(counts, classes, threshold, folder / "confusion"),
    ]


def _plot(stem: Path, title: str, what: str, reason: str | None, drawn: Callable[[Axes], str]) -> Plot:
    """One figure; where it is not defined, the picture says why."""
    figure = Figure(figsize=(4.5, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlim=UNIT, ylim=UNIT)
    if reason is None:
        return _save(figure, stem, title, drawn(axes))
    axes.text(0.5, 0.5, f"not defined:\n{reason}", ha="center", va="center")
    return _save(figure, stem, title, f"No {what}: {reason}.")


def _roc(axes: Axes, data: Scores) -> str:
    sick, scores = data.sick, data.scores
    band = curves.roc(data.ranked)
    area = auroc(sick.astype(np.int64), np.stack([1 - scores, scores], 1), ("none", "tumour")).value
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.fill_between(curves.GRID, band.low, band.high, color=BLUE, alpha=0.2, linewidth=0, label="95 % band")
    axes.plot(band.x, band.y, color=BLUE, linewidth=2)
    if data.threshold is not None:
        called = scores >= data.threshold
        _point(axes, float(called[~sick].mean()), float(called[sick].mean()), data.threshold)
    axes.set(aspect="equal", xlabel="1 − specificity", ylabel="sensitivity")
    axes.set_title(f"AUROC {area:.3f}, n = {len(scores)}")
    axes.legend(loc="lower right", frameon=False)
    return f"ROC curve with an area of {area:.3f} over {len(scores)} samples."


def _precision_recall(axes: Axes, data: Scores) -> str:
    sick, scores = data.sick, data.scores
    band, prevalence = curves.precision_recall(data.ranked), float(sick.mean())
    average = float(average_precision_score(sick, scores))
    axes.axhline(prevalence, color=GREY, linestyle="--", linewidth=1)
    axes.fill_between(
        curves.GRID, band.low, band.high, step="pre", color=BLUE, alpha=0.2, linewidth=0, label="95 % band"
    )
    axes.step(band.x, band.y, where="pre", color=BLUE, linewidth=2)
    if data.threshold is not None and (scores >= data.threshold).any():
        called = scores >= data.threshold
        _point(axes, float(called[sick].mean()), float(sick[called].mean()), data.threshold)
    axes.set(aspect="equal", xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    axes.set_title(f"average precision {average:.3f}, share of tumours {prevalence:.3f}")
    axes.legend(loc="lower left", frameon=False)
    return f"Precision-recall curve with an average precision of {average:.3f} over {len(scores)} samples."


def _calibration(axes: Axes, data: Scores) -> str:
    bins = curves.calibration(data.sick, data.scores, data.codes)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    ends = [[b.share - b.low for b in bins], [b.high - b.share for b in bins]]
    x, y = [b.score for b in bins], [b.share for b in bins]
    axes.errorbar(x, y, yerr=ends, color=BLUE, marker="o", linestyle="none", capsize=3)
    for b in bins:
        axes.annotate(str(b.n), (b.score, b.share), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(aspect="equal", xlabel="mean score", ylabel="share with a tumour, 95 % interval")
    axes.set_title("Calibration; samples in each bin beside its point", fontsize=10)
    said = [f"mean score {b.score:.2f}: {b.share:.2f} of {b.n}" for b in bins]
    return f"Calibration plot, share with a tumour by score. {'; '.join(said)}."


def _histogram(axes: Axes, data: Scores) -> str:
    sides = ((data.scores[~data.sick], "no tumour", BLUE, ""), (data.scores[data.sick], "tumour", ORANGE, "///"))
    for scores, name, colour, hatch in sides:
        label = f"{name}, n = {len(scores)}"
        axes.hist(
            scores, bins=HISTOGRAM_BINS, range=(0, 1), color=colour, alpha=0.55, edgecolor=colour,
            linewidth=0.5, hatch=hatch, label=label, histtype="stepfilled",
        )  # fmt: skip
    if data.threshold is not None:
        axes.axvline(data.threshold, color="black", linewidth=1, linestyle=":", label=f"threshold {data.threshold:g}")
    axes.set(xlabel="score, probability of a tumour", ylabel="samples")
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper center", frameon=False)
    none, ill = (len(s[0]) for s in sides)
    return f"Histogram of the scores of {none} samples without a tumour and {ill} with one."


def _point(axes: Axes, x: float, y: float, threshold: float) -> None:
    axes.plot([x], [y], marker="o", color=BLUE, linestyle="none", label=f"threshold {threshold:g}")


def _confusion(counts: np.ndarray, classes: Sequence[str], threshold: float, stem: Path) -> Plot:
    figure = Figure(figsize=(4.5, 4.5), dpi=DPI, layout="constrained")
    title = "Confusion matrix" + (f" at threshold {threshold:g}" if len(classes) == 2 else ", the likeliest class")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=f"n = {counts.sum()}")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name.replace("$", r"\$") for name in classes]  # matplotlib reads what stands between $ as mathematics
    axes.set_xticks(range(len(classes)), names)
    axes.set_yticks(range(len(classes)), names, rotation=90, va="center")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=14,
                  color="white" if shares[row, column] > 0.5 else "black")  # fmt: skip
    cells = [f"{counts[i, j]} of {a} called {b}" for i, a in enumerate(classes) for j, b in enumerate(classes)]
    return _save(figure, stem, title, f"Confusion matrix: {', '.join(cells)}.")


def _save(figure: Figure, stem: Path, title: str, alt: str) -> Plot:
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    FigureCanvasAgg(figure).print_png(str(png), pil_kwargs={"compress_level": 9})
    with mpl.rc_context({"svg.hashsalt": stem.name}):  # else ids are drawn by chance
        FigureCanvasSVG(figure).print_svg(str(svg), metadata={"Date": None})
    return Plot(path=png, svg=svg, title=title, alt=alt)
