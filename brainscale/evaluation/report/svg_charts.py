"""Charts as geometry for inline SVG: the template draws them, the page's script moves their marks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator

from brainscale.evaluation.report import curves
from brainscale.evaluation.report.plots import Scores

LEFT, TOP, WIDTH, HEIGHT = 46.0, 12.0, 264.0, 232.0
"""The plotting area in a view of 320 × 300."""
HISTOGRAM_BINS, ROOM = 50, 0.42  # the highest bar, of the plot's height

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A path with the style's name for it."""

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Text:
    """Words at a place; `kind` names their style."""

    kind: str
    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One figure of the page.

    Attributes:
        name: prefix of the ids in the page.
        title: its name.
        description: what it shows, in words.
        caption: how to read it.
        x_label: under the axis.
        y_label: beside the axis.
        x_ticks: place and text.
        y_ticks: place and text.
        shapes: in the order of drawing.
        texts: inside the plot.
        mark: what the slider moves, a point or an upright line, and where it stands at first.
        at: the mark's place; none where it cannot be shown.
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
    at: Point | None = None
    area: Mapping[str, float] = field(
        default_factory=lambda: {"left": LEFT, "top": TOP, "width": WIDTH, "height": HEIGHT}
    )


def across(x: float) -> float:
    """0..1 → the view's x."""
    return round(LEFT + WIDTH * x, 1)


def up(y: float) -> float:
    """0..1 → the view's y."""
    return round(TOP + HEIGHT * (1 - y), 1)


def roc(data: Scores, at: Point | None) -> Chart:
    """ROC curve with its band."""
    band = curves.roc(data.ranked)
    return Chart(
        name="roc",
        title="ROC curve",
        description=f"Sensitivity against 1 − specificity over {len(data.scores)} samples. {_heights(band)}",
        caption="The nearer the curve comes to the upper left corner, the better; the dashes are chance.",
        x_label="1 − specificity",
        y_label="sensitivity",
        x_ticks=_ticks(across),
        y_ticks=_ticks(up),
        shapes=[_band(band), _line("chance", [(0, 0), (1, 1)]), _line("curve", _points(band))],
        mark="point",
        at=at,
    )


def precision_recall(data: Scores, at: Point | None) -> Chart:
    """Precision-recall curve with its band; drawn in steps, since precision does not move in straight lines."""
    band, share = curves.precision_recall(data.ranked), float(data.sick.mean())
    return Chart(
        name="pr",
        title="Precision-recall curve",
        description=f"Precision against recall; {share:.3f} of the samples have a tumour. {_heights(band)}",
        caption="Precision depends on how common tumours are: the dashes are their share of this set.",
        x_label="recall (sensitivity)",
        y_label="precision (PPV)",
        x_ticks=_ticks(across),
        y_ticks=_ticks(up),
        shapes=[
            _band(band),
            _line("chance", [(0, share), (1, share)]),
            _line("curve", _stairs(_points(band))),
        ],
        mark="point",
        at=at,
    )


def calibration(data: Scores) -> Chart:
    """Share with a tumour by score, with intervals and the count of each bin."""
    bins = curves.calibration(data.sick, data.scores, data.codes)
    said = [f"mean score {b.score:.2f}, {b.share:.2f} of {b.n} have a tumour" for b in bins]
    ends = "".join(f"M{across(b.score)} {up(b.low)}V{up(b.high)}" for b in bins)
    dots = "".join(_dot(across(b.score), up(b.share)) for b in bins)
    return Chart(
        name="calibration",
        title="Calibration",
        description=f"{'; '.join(said)}.",
        caption="On the dashes, scores are true probabilities. Bars are 95 % intervals; the numbers above are samples.",
        x_label="mean score of the bin",
        y_label="share with a tumour",
        x_ticks=_ticks(across),
        y_ticks=_ticks(up),
        shapes=[
            _line("chance", [(0, 0), (1, 1)]),
            Shape(kind="whisker", path=ends),
            Shape(kind="dot", path=dots),
        ],
        texts=[
            Text(kind="count", x=across((min(int(b.score * curves.BINS), 9) + 0.5) / 10), y=TOP - 6, text=_short(b.n))
            for b in bins
        ],
    )


def histogram(data: Scores, classes: tuple[str, str], threshold: float) -> Chart:
    """Scores of both sides, those with a tumour upwards and the others downwards."""
    sides = [
        np.histogram(data.scores[s].clip(0, 1), HISTOGRAM_BINS, (0, 1))[0] / max(1, s.sum())
        for s in (data.sick, ~data.sick)
    ]
    most = max(float(side.max()) for side in sides)
    ends = [ROOM * side / most for side in sides]
    ill, well = int(data.sick.sum()), int((~data.sick).sum())
    levels = [v for v in _nice(0, most, 3) if v <= most]
    ticks = [(up(0.5 + ROOM * v / most), f"{100 * abs(v):g} %") for v in [-v for v in levels if v] + levels]
    return Chart(
        name="histogram",
        title="Scores by class",
        description=f"Scores of {ill} samples with a tumour, upwards, and of {well} without, downwards.",
        caption="Upwards: samples with a tumour; downwards: those without. Heights are shares of each side.",
        x_label="score, probability of a tumour",
        y_label="share of the side",
        x_ticks=_ticks(across),
        y_ticks=ticks,
        shapes=[
            Shape(kind="sick", path=_bars(ends[0])),
            Shape(kind="well", path=_bars(-ends[1])),
            _line("axis", [(0, 0.5), (1, 0.5)]),
        ],
        texts=[
            Text(kind="label", x=LEFT + WIDTH / 2, y=TOP + 12, text=f"▲ {_cut(classes[1])}, n = {ill}"),
            Text(kind="label", x=LEFT + WIDTH / 2, y=TOP + HEIGHT - 6, text=f"▼ {_cut(classes[0])}, n = {well}"),
        ],
        mark="line",
        at=(threshold, 0),
    )


def history(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss and accuracy of training and validation by epoch; rows of schema HISTORY."""
    return [_by_epoch(rows, "loss"), _by_epoch(rows, "accuracy")]


def _by_epoch(rows: Sequence[Mapping[str, Any]], what: str) -> Chart:
    columns = {side: [float(row[f"{side}_{what}"]) for row in rows] for side in ("train", "val")}
    epochs, finite = [int(row["epoch"]) for row in rows], [v for c in columns.values() for v in c if np.isfinite(v)]
    levels, most = _nice(min(finite, default=0), max(finite, default=1), 4), 1 if what == "accuracy" else np.inf
    levels = sorted({min(level, most) for level in levels})
    low, high, last = levels[0], max(levels[-1], levels[0] + 1e-9), max(2, *epochs)
    lines = {
        side: [((e - 1) / (last - 1), (v - low) / (high - low)) for e, v in zip(epochs, c, strict=True) if _real(v)]
        for side, c in columns.items()
    }
    best = max((row["epoch"] for row in rows if row["best"]), default=None)
    chosen = [p for e, p in zip(epochs, lines["val"], strict=False) if e == best and len(lines["val"]) == len(epochs)]
    first, end = (", ".join(f"{side} {c[i]:.3f}" for side, c in columns.items()) for i in (0, -1))
    return Chart(
        name=f"history-{what}",
        title=f"{what.capitalize()} by epoch",
        description=f"Epoch {epochs[0]}: {first}. Epoch {epochs[-1]}: {end}. {f'Best epoch: {best}.' if best else ''}",
        caption="Solid: validation; dashed: training."
        + (f" The dot is epoch {best}, the best by validation loss." if chosen else ""),
        x_label="epoch",
        y_label=what,
        x_ticks=[(across((e - 1) / (last - 1)), f"{e:g}") for e in _nice(1, last, 5) if e % 1 == 0 and 1 <= e <= last],
        y_ticks=[(up((v - low) / (high - low)), f"{v:.3g}") for v in levels],
        shapes=[
            _line("train", lines["train"]),
            _line("curve", lines["val"]),
            Shape(kind="dot", path="".join(_dot(across(x), up(y)) for x, y in chosen)),
        ],
    )


def _real(value: float) -> bool:
    return bool(np.isfinite(value))


def _nice(low: float, high: float, steps: int) -> list[float]:
    return [round(float(v), 10) for v in MaxNLocator(steps).tick_values(low, high)]


def _ticks(place: Any) -> list[tuple[float, str]]:
    return [(place(v), f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)]


def _points(band: curves.Band) -> list[Point]:
    return list(zip(band.x.tolist(), band.y.tolist(), strict=True))


def _stairs(points: Sequence[Point]) -> list[Point]:
    corners: list[Point] = [(0, points[0][1])]
    for x, y in points:
        corners += [(corners[-1][0], y), (x, y)]
    return corners


def _path(points: Iterable[Point]) -> str:
    """Points 0..1 → a path, without those that fall on the one before."""
    places = [f"{across(x):g} {up(y):g}" for x, y in points]
    kept = [p for i, p in enumerate(places) if i == 0 or p != places[i - 1]]
    return f"M{'L'.join(kept)}" if kept else ""


def _line(kind: str, points: Iterable[Point]) -> Shape:
    return Shape(kind=kind, path=_path(points))


def _band(band: curves.Band) -> Shape:
    there = list(zip(curves.GRID.tolist(), band.high.tolist(), strict=True))
    back = list(zip(curves.GRID.tolist(), band.low.tolist(), strict=True))
    return Shape(kind="band", path=f"{_path(there + back[::-1])}Z")


def _bars(heights: np.ndarray) -> str:
    """Bars from the middle line upwards, or downwards where heights are negative."""
    bars = enumerate(heights.tolist())
    return "".join(
        f"M{across(i / HISTOGRAM_BINS):g} {up(0.5):g}V{up(0.5 + h):g}H{across((i + 1) / HISTOGRAM_BINS):g}V{up(0.5):g}Z"
        for i, h in bars
        if h
    )


def _dot(x: float, y: float) -> str:
    return f"M{x - 4:g} {y:g}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"


def _heights(band: curves.Band) -> str:
    at = (10, 50, 90)
    said = [f"{band.low[i]:.2f} to {band.high[i]:.2f} at {curves.GRID[i]:.1f}" for i in at]
    return f"95 % band: {', '.join(said)}."


def _short(n: int) -> str:
    return str(n) if n < 10_000 else f"{n / 1000:.0f}k"


def _cut(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
