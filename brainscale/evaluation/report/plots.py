"""Plots for papers and slides, each as PNG and SVG: ROC, precision and recall, calibration, scores, confusion."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from brainscale.evaluation.report import curves
from brainscale.evaluation.report.curves import TumourScores
from brainscale.stats.confusion import confusion_matrix
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.weighted_metrics import auroc_and_average_precision

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6b6b6b"  # of Okabe and Ito's colour-blind-safe palette
DPI, HISTOGRAM_BINS = 150, 50
UNIT = (-0.02, 1.02)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot in two files.

    Attributes:
        path: the PNG.
        svg: the same as SVG.
        title: what it shows.
        alt: the same for those who do not see it.
    """

    path: Path
    svg: Path
    title: str
    alt: str


def draw_plots(samples: LabelledProbabilities, folder: Path, *, has_threshold: bool = True) -> list[Plot]:
    """Write the plots roc, precision-recall, calibration, scores and confusion, each as .png and .svg.

    The same input gives the same bytes.

    Args:
        samples: labels and probabilities, with one threshold for all; bands and bars take groups into account.
        folder: where to write; made if it is missing.
        has_threshold: whether the threshold is the model's: without one there are no marks and no confusion matrix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = TumourScores.of(samples)
    if not has_threshold:
        scores = replace(scores, threshold=None)
    plots = [
        _plot(folder / "roc", "ROC: tumour against no tumour", "ROC curve", scores.no_curve, lambda a: _roc(a, scores)),
        _plot(
            folder / "precision-recall",
            "Precision and recall: tumour against no tumour",
            "precision-recall curve",
            scores.no_curve,
            lambda axes: _precision_recall(axes, scores),
        ),
        _plot(
            folder / "calibration",
            "Calibration",
            "calibration plot",
            scores.undefined,
            lambda axes: _calibration(axes, scores),
        ),
        _plot(folder / "scores", "Scores by class", "histogram", scores.undefined, lambda a: _histogram(a, scores)),
    ]
    return [*plots, _confusion(samples, folder / "confusion")] if has_threshold else plots


def _plot(stem: Path, title: str, kind: str, reason: str | None, draw: Callable[[Axes], str]) -> Plot:
    """Write one plot; where it is undefined, it says why."""
    figure = Figure(figsize=(4.5, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlim=UNIT, ylim=UNIT)
    if reason is None:
        return _save(figure, stem, title, draw(axes))
    axes.text(0.5, 0.5, f"undefined:\n{reason}", ha="center", va="center")
    return _save(figure, stem, title, f"No {kind}: {reason}.")


def _roc(axes: Axes, data: TumourScores) -> str:
    has_tumour, scores = data.has_tumour, data.scores
    curve = curves.roc_curve(data.ranked)
    auroc, _ = auroc_and_average_precision(has_tumour, scores)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.fill_between(curves.GRID, curve.low, curve.high, color=BLUE, alpha=0.2, linewidth=0, label="95 % band")
    axes.plot(curve.x, curve.y, color=BLUE, linewidth=2)
    if data.threshold is not None:
        predicted = scores >= data.threshold
        _mark(axes, float(predicted[~has_tumour].mean()), float(predicted[has_tumour].mean()), data.threshold)
    axes.set(aspect="equal", xlabel="1 − specificity", ylabel="sensitivity")
    axes.set_title(f"AUROC {auroc:.3f}, n = {len(scores)}")
    axes.legend(loc="lower right", frameon=False)
    return f"ROC curve with an area of {auroc:.3f} over {len(scores)} samples."


def _precision_recall(axes: Axes, data: TumourScores) -> str:
    has_tumour, scores = data.has_tumour, data.scores
    curve, share = curves.precision_recall_curve(data.ranked), float(has_tumour.mean())
    _, average = auroc_and_average_precision(has_tumour, scores)
    axes.axhline(share, color=GREY, linestyle="--", linewidth=1)
    axes.fill_between(
        curves.GRID, curve.low, curve.high, step="pre", color=BLUE, alpha=0.2, linewidth=0, label="95 % band"
    )
    axes.step(curve.x, curve.y, where="pre", color=BLUE, linewidth=2)
    if data.threshold is not None and (scores >= data.threshold).any():
        predicted = scores >= data.threshold
        _mark(axes, float(predicted[has_tumour].mean()), float(has_tumour[predicted].mean()), data.threshold)
    axes.set(aspect="equal", xlabel="recall (sensitivity)", ylabel="precision (PPV)")
    axes.set_title(f"average precision {average:.3f}, share of tumours {share:.3f}")
    axes.legend(loc="lower left", frameon=False)
    return f"Precision-recall curve with an average precision of {average:.3f} over {len(scores)} samples."


def _calibration(axes: Axes, data: TumourScores) -> str:
    bins = curves.calibration_bins(data.has_tumour, data.scores, data.codes)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    bars = [[b.share - b.low for b in bins], [b.high - b.share for b in bins]]
    x, y = [b.score for b in bins], [b.share for b in bins]
    axes.errorbar(x, y, yerr=bars, color=BLUE, marker="o", linestyle="none", capsize=3)
    for b in bins:
        axes.annotate(str(b.n), (b.score, b.share), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(aspect="equal", xlabel="mean score", ylabel="share with a tumour, 95 % interval")
    axes.set_title("Calibration; number of samples beside each point", fontsize=10)
    texts = [f"mean score {b.score:.2f}: {b.share:.2f} of {b.n}" for b in bins]
    return f"Calibration plot, share with a tumour by score. {'; '.join(texts)}."


def _histogram(axes: Axes, data: TumourScores) -> str:
    without_tumour, with_tumour = data.scores[~data.has_tumour], data.scores[data.has_tumour]
    for scores, name, colour, hatch in (
        (without_tumour, "no tumour", BLUE, ""),
        (with_tumour, "tumour", ORANGE, "///"),
    ):
        label = f"{name}, n = {len(scores)}"
        axes.hist(
            scores, bins=HISTOGRAM_BINS, range=(0, 1), color=colour, alpha=0.55, edgecolor=colour,
            linewidth=0.5, hatch=hatch, label=label, histtype="stepfilled",
        )  # fmt: skip
    if data.threshold is not None:
        axes.axvline(data.threshold, color="black", linewidth=1, linestyle=":", label=f"threshold {data.threshold:g}")
    axes.set(xlabel="score (probability of a tumour)", ylabel="samples")
    axes.autoscale(axis="y")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper center", frameon=False)
    return f"Histogram of the scores of {len(without_tumour)} samples without a tumour and {len(with_tumour)} with one."


def _mark(axes: Axes, x: float, y: float, threshold: float) -> None:
    axes.plot([x], [y], marker="o", color=BLUE, linestyle="none", label=f"threshold {threshold:g}")


def _confusion(samples: LabelledProbabilities, stem: Path) -> Plot:
    counts, classes = confusion_matrix(samples), samples.classes
    figure = Figure(figsize=(4.5, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", title=f"n = {counts.sum()}")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name.replace("$", r"\$") for name in classes]  # matplotlib reads what stands between $ as mathematics
    axes.set_xticks(range(len(classes)), names)
    axes.set_yticks(range(len(classes)), names, rotation=90, va="center")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, f"{count}", ha="center", va="center", fontsize=14,
                  color="white" if shares[row, column] > 0.5 else "black")  # fmt: skip
    cells = [f"{counts[i, j]} of {a} predicted as {b}" for i, a in enumerate(classes) for j, b in enumerate(classes)]
    title = f"Confusion matrix at threshold {float(samples.threshold):g}"
    return _save(figure, stem, title, f"Confusion matrix: {', '.join(cells)}.")


def _save(figure: Figure, stem: Path, title: str, alt: str) -> Plot:
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    FigureCanvasAgg(figure).print_png(str(png), pil_kwargs={"compress_level": 9})
    with mpl.rc_context({"svg.hashsalt": stem.name}):  # else ids are random
        FigureCanvasSVG(figure).print_svg(str(svg), metadata={"Date": None})
    return Plot(path=png, svg=svg, title=title, alt=alt)
