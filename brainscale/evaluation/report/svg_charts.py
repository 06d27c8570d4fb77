"""Charts as geometry for inline SVG: the template draws them, the page's script moves their marks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from brainscale.evaluation.report import curves
from brainscale.evaluation.report.curves import Curve, TumourScores

LEFT, TOP, WIDTH, HEIGHT = 46.0, 12.0, 264.0, 232.0
"""The plotting area in a view of 320 × 300."""
HISTOGRAM_BINS, BAR_HEIGHT = 50, 0.42  # the highest bar, as a share of the plot's height

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A path with the style's name for it."""

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text inside the plot; `kind` names its style."""

    kind: str
    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart of the page.

    Attributes:
        name: prefix of the ids in the page.
        title: what it shows.
        description: the same in words, for those who do not see it.
        caption: how to read it.
        x_label: label under the axis.
        y_label: label beside the axis.
        x_ticks: position and text of each tick.
        y_ticks: position and text of each tick.
        shapes: paths in the order of drawing.
        texts: texts inside the plot.
        mark: what the slider moves: a point, or an upright line.
        mark_point: first position of the mark, 0..1; None where it cannot be shown.
        area: the plotting area.
    """

    name: str
    title: str
    description: str
    caption: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    shapes: Sequence[Shape]
    texts: Sequence[Text] = ()
    mark: Literal["point", "line"] | None = None
    mark_point: Point | None = None
    area: Mapping[str, float] = field(
        default_factory=lambda: {"left": LEFT, "top": TOP, "width": WIDTH, "height": HEIGHT}
    )


def to_x(share: float) -> float:
    """Return the view's x of a position 0..1 from left to right."""
    return round(LEFT + WIDTH * share, 1)


def to_y(share: float) -> float:
    """Return the view's y of a position 0..1 from bottom to top."""
    return round(TOP + HEIGHT * (1 - share), 1)


def roc_chart(data: TumourScores, mark_point: Point | None) -> Chart:
    """Return the ROC curve with its band."""
    curve = curves.roc_curve(data.ranked)
    return Chart(
        name="roc",
        title="ROC curve",
        description=f"Sensitivity against 1 − specificity over {len(data.scores)} samples. {_describe_band(curve)}",
        caption="The closer the curve is to the upper left corner, the better; the dashed line is chance.",
        x_label="1 − specificity",
        y_label="sensitivity",
        x_ticks=_ticks(to_x),
        y_ticks=_ticks(to_y),
        shapes=[_band(curve), _line("chance", [(0, 0), (1, 1)]), _line("curve", _points(curve))],
        mark="point",
        mark_point=mark_point,
    )


def precision_recall_chart(data: TumourScores, mark_point: Point | None) -> Chart:
    """Return the precision-recall curve with its band, in steps: precision does not move in straight lines."""
    curve, share = curves.precision_recall_curve(data.ranked), float(data.has_tumour.mean())
    return Chart(
        name="pr",
        title="Precision-recall curve",
        description=f"Precision against recall; {share:.3f} of the samples have a tumour. {_describe_band(curve)}",
        caption="Precision depends on how common tumours are: the dashed line is their share of this set.",
        x_label="recall (sensitivity)",
        y_label="precision (PPV)",
        x_ticks=_ticks(to_x),
        y_ticks=_ticks(to_y),
        shapes=[
            _band(curve),
            _line("chance", [(0, share), (1, share)]),
            _line("curve", _steps(_points(curve))),
        ],
        mark="point",
        mark_point=mark_point,
    )


def calibration_chart(data: TumourScores) -> Chart:
    """Return the share of samples with a tumour by score, with intervals and the number of samples of each bin."""
    bins = curves.calibration_bins(data.has_tumour, data.scores, data.codes)
    texts = [f"mean score {b.score:.2f}, {b.share:.2f} of {b.n} have a tumour" for b in bins]
    intervals = "".join(f"M{to_x(b.score)} {to_y(b.low)}V{to_y(b.high)}" for b in bins)
    dots = "".join(_dot(to_x(b.score), to_y(b.share)) for b in bins)
    return Chart(
        name="calibration",
        title="Calibration",
        description=f"{'; '.join(texts)}.",
        caption="On the dashed line, scores are true probabilities. Bars are 95 % intervals; the numbers at the top "
        "count samples.",
        x_label="mean score of the bin",
        y_label="share with a tumour",
        x_ticks=_ticks(to_x),
        y_ticks=_ticks(to_y),
        shapes=[
            _line("chance", [(0, 0), (1, 1)]),
            Shape(kind="whisker", path=intervals),
            Shape(kind="dot", path=dots),
        ],
        texts=[
            Text(kind="count", x=to_x((min(int(b.score * curves.BINS), 9) + 0.5) / 10), y=TOP - 6, text=_short(b.n))
            for b in bins
        ],
    )


def score_histogram(data: TumourScores, classes: tuple[str, str], threshold: float) -> Chart:
    """Return the scores of both classes, those with a tumour upwards and the others downwards."""
    with_tumour, without_tumour = (
        np.histogram(data.scores[rows].clip(0, 1), HISTOGRAM_BINS, (0, 1))[0] / max(1, rows.sum())
        for rows in (data.has_tumour, ~data.has_tumour)
    )
    highest = max(float(with_tumour.max()), float(without_tumour.max()))
    scale = BAR_HEIGHT / highest
    tumours, others = int(data.has_tumour.sum()), int((~data.has_tumour).sum())
    levels = [v for v in _nice(0, highest, 3) if v <= highest]
    ticks = [(to_y(0.5 + scale * v), f"{100 * abs(v):g} %") for v in [-v for v in levels if v] + levels]
    return Chart(
        name="histogram",
        title="Scores by class",
        description=f"Scores of {tumours} samples with a tumour, upwards, and of {others} without, downwards.",
        caption="Upwards: samples with a tumour; downwards: samples without. Heights are shares of each class.",
        x_label="score (probability of a tumour)",
        y_label="share of the class",
        x_ticks=_ticks(to_x),
        y_ticks=ticks,
        shapes=[
            Shape(kind="with-tumour", path=_bars(scale * with_tumour)),
            Shape(kind="without-tumour", path=_bars(-scale * without_tumour)),
            _line("axis", [(0, 0.5), (1, 0.5)]),
        ],
        texts=[
            Text(kind="label", x=LEFT + WIDTH / 2, y=TOP + 12, text=f"▲ {_shorten(classes[1])}, n = {tumours}"),
            Text(kind="label", x=LEFT + WIDTH / 2, y=TOP + HEIGHT - 6, text=f"▼ {_shorten(classes[0])}, n = {others}"),
        ],
        mark="line",
        mark_point=(threshold, 0),
    )


def history_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return loss and accuracy of training and validation by epoch; rows of schema HISTORY."""
    return [_history_chart(rows, "loss"), _history_chart(rows, "accuracy")]


def _history_chart(rows: Sequence[Mapping[str, Any]], quantity: str) -> Chart:
    values = {split: [float(row[f"{split}_{quantity}"]) for row in rows] for split in ("train", "val")}
    epochs, finite = [int(row["epoch"]) for row in rows], [v for c in values.values() for v in c if np.isfinite(v)]
    limit = 1 if quantity == "accuracy" else np.inf
    levels = sorted({min(v, limit) for v in _nice(min(finite, default=0), max(finite, default=1), 4)})
    low, high, last = levels[0], max(levels[-1], levels[0] + 1e-9), max(2, *epochs)

    def point(epoch: int, value: float) -> Point:
        return (epoch - 1) / (last - 1), (value - low) / (high - low)

    lines = {
        split: [point(epoch, value) for epoch, value in zip(epochs, column, strict=True) if np.isfinite(value)]
        for split, column in values.items()
    }
    best = max((row["epoch"] for row in rows if row["best"]), default=None)
    finite_val = np.isfinite(values["val"]).all()
    dots = [point(e, value) for e, value in zip(epochs, values["val"], strict=True) if e == best and finite_val]
    first, end = (", ".join(f"{split} {column[i]:.3f}" for split, column in values.items()) for i in (0, -1))
    return Chart(
        name=f"history-{quantity}",
        title=f"{quantity.capitalize()} by epoch",
        description=f"Epoch {epochs[0]}: {first}. Epoch {epochs[-1]}: {end}. {f'Best epoch: {best}.' if best else ''}",
        caption="Solid line: validation; dashed line: training."
        + (f" The dot is epoch {best}, the best by validation loss." if dots else ""),
        x_label="epoch",
        y_label=quantity,
        x_ticks=[(to_x((e - 1) / (last - 1)), f"{e:g}") for e in _nice(1, last, 5) if e % 1 == 0 and 1 <= e <= last],
        y_ticks=[(to_y((v - low) / (high - low)), f"{v:.3g}") for v in levels],
        shapes=[
            _line("train", lines["train"]),
            _line("curve", lines["val"]),
            Shape(kind="dot", path="".join(_dot(to_x(x), to_y(y)) for x, y in dots)),
        ],
    )


def _nice(low: float, high: float, steps: int) -> list[float]:
    return [round(float(v), 10) for v in MaxNLocator(steps).tick_values(low, high)]


def _ticks(position: Callable[[float], float]) -> list[tuple[float, str]]:
    return [(position(v), f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)]


def _points(curve: Curve) -> list[Point]:
    return list(zip(curve.x.tolist(), curve.y.tolist(), strict=True))


def _steps(points: Sequence[Point]) -> list[Point]:
    corners: list[Point] = [(0, points[0][1])]
    for x, y in points:
        corners += [(corners[-1][0], y), (x, y)]
    return corners


def _path(points: Iterable[Point]) -> str:
    """Return the path of points 0..1, without those that fall on the one before."""
    positions = [f"{to_x(x):g} {to_y(y):g}" for x, y in points]
    kept = [p for i, p in enumerate(positions) if i == 0 or p != positions[i - 1]]
    return f"M{'L'.join(kept)}" if kept else ""


def _line(kind: str, points: Iterable[Point]) -> Shape:
    return Shape(kind=kind, path=_path(points))


def _band(curve: Curve) -> Shape:
    upper = list(zip(curves.GRID.tolist(), curve.high.tolist(), strict=True))
    lower = list(zip(curves.GRID.tolist(), curve.low.tolist(), strict=True))
    return Shape(kind="band", path=f"{_path(upper + lower[::-1])}Z")


def _bars(heights: np.ndarray) -> str:
    """Return bars from the middle line upwards, or downwards where heights are negative."""
    return "".join(
        f"M{to_x(i / HISTOGRAM_BINS):g} {to_y(0.5):g}V{to_y(0.5 + height):g}"
        f"H{to_x((i + 1) / HISTOGRAM_BINS):g}V{to_y(0.5):g}Z"
        for i, height in enumerate(heights.tolist())
        if height
    )


def _dot(x: float, y: float) -> str:
    return f"M{x - 4:g} {y:g}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"


def _describe_band(curve: Curve) -> str:
    ends = [f"{curve.low[i]:.2f} to {curve.high[i]:.2f} at {curves.GRID[i]:.1f}" for i in (10, 50, 90)]
    return f"95 % band: {', '.join(ends)}."


def _short(n: int) -> str:
    return str(n) if n < 10_000 else f"{n / 1000:.0f}k"


def _shorten(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
