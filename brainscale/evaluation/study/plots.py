"""The plots of a page of results, made from the table alone: intervals of rows, protocols side by side, curves."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from brainscale.evaluation.report.plots import BLUE, GREY, ORANGE
from brainscale.evaluation.study.divisions import CONDITIONS
from brainscale.evaluation.study.page import plot_of
from brainscale.evaluation.study.page_tables import COMPARED, CONDITION_TITLES, conditions_of, title_of
from brainscale.evaluation.study.results_table import Line, Results
from brainscale.evaluation.study.sections import Part
from brainscale.stats.metric_names import metric_name
from brainscale.storage.local import make_folder, replacing

GREEN = "#009E73"  # of Okabe and Ito's colour-blind-safe palette, as the others
COLOURS = (ORANGE, BLUE, GREEN, GREY, "#CC79A7", "#E69F00", "#56B4E9")
LINE_INCHES, LEAST_INCHES, WIDTH_INCHES = 0.32, 1.4, 9.0


def draw_plots(results: Results, folder: Path) -> list[Path]:
    """Write the plot of each part that has one; the same table gives the same bytes.

    Args:
        results: a study's rows of the table.
        folder: where to write; made if it is missing.
    """
    written = []
    for name, part in results.file.study.parts.items():
        file = plot_of(results, name, part)
        if file is None:
            continue
        make_folder(folder)
        draw = {"leak": _draw_leak, "learning_curve": _draw_curve}.get(part.kind, _draw_rows)
        with mpl.rc_context({"svg.hashsalt": "brainscale", "font.size": 9.0}):  # else ids are random
            figure = draw(results, name, part)
            with replacing(folder / file) as aside:
                FigureCanvasSVG(figure).print_svg(aside, metadata={"Date": None, "Creator": None})
        written.append(folder / file)
    return written


def _figure(lines: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with an axis for each compared metric, high enough for so many lines."""
    figure = Figure(figsize=(WIDTH_INCHES, LEAST_INCHES + LINE_INCHES * lines), layout="constrained")
    return figure, list(figure.subplots(1, len(COMPARED), sharey=True))


def _draw_rows(results: Results, name: str, part: Part) -> Figure:
    """Draw accuracy and AUROC of each row with intervals; published figures as hollow marks."""
    rows = [row for row, condition in conditions_of(part) if results.metric(name, row, condition, "auroc")]
    figure, axes = _figure(len(rows))
    for metric, axis in zip(COMPARED, axes, strict=True):
        for height, row in enumerate(reversed(rows)):
            line = results.metric(name, row, "", metric)
            if line is not None and line["value"] is not None:
                _mark(axis, line, height, BLUE, "")
            published = results.published(name, row, metric)
            if published is not None:
                axis.plot(published, height, "D", mfc="none", mec=ORANGE, ms=5)
        axis.set_xlabel(metric_name(metric).name)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [title_of(part, row) for row in reversed(rows)])
    if any(results.published(name, row, "accuracy") is not None for row in rows):
        figure.supxlabel("filled: measured here, with 95 % interval; hollow: as published", fontsize=8)
    return figure


def _draw_leak(results: Results, name: str, part: Part) -> Figure:
    """Draw accuracy and AUROC of each row under the three protocols."""
    figure, axes = _figure(3 * len(part.rows) // 2)
    for metric, axis in zip(COMPARED, axes, strict=True):
        for height, row in enumerate(reversed(part.rows)):
            for number, condition in enumerate(CONDITIONS):
                line = results.metric(name, row, condition, metric)
                if line is not None and line["value"] is not None:
                    label = CONDITION_TITLES[condition] if height == 0 else ""
                    _mark(axis, line, height + 0.22 * (1 - number), COLOURS[number], label)
        axis.set_xlabel(metric_name(metric).name)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(part.rows)), [title_of(part, row) for row in reversed(part.rows)])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_curve(results: Results, name: str, part: Part) -> Figure:
    """Draw accuracy and AUROC against the number of images to learn from."""
    figure, axes = _figure(6)
    for metric, axis in zip(COMPARED, axes, strict=True):
        for number, row in enumerate(part.rows):
            points = []
            for condition in (f"{share:g}" for share in part.shares):
                line = results.metric(name, row, condition, metric)
                images = results.number(name, row, condition, "training_samples")
                if line is not None and line["value"] is not None and images is not None:
                    low, high = (line[end] if line[end] is not None else line["value"] for end in ("low", "high"))
                    points.append((images, line["value"], low, high))
            if points:
                x, y, low, high = np.array(points).T
                colour = COLOURS[number % len(COLOURS)]
                axis.plot(x, y, "o-", color=colour, label=title_of(part, row), ms=4)
                axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axis.set_xlabel("Images to learn from")
        axis.set_title(metric_name(metric).name)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _mark(axis: Axes, line: Line, height: float, colour: str, label: str) -> None:
    """Draw a value and its interval at a height."""
    if line["low"] is not None:
        axis.plot([line["low"], line["high"]], [height, height], "-", color=colour, lw=1.5)
    axis.plot(line["value"], height, "o", color=colour, ms=5, label=label or None)
