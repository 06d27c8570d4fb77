"""Measure whether heatmaps show what a network goes by: deletion, insertion and the pointing game.

Deletion takes the pixels of a plane out, the hottest first, and insertion shows them alone, in the same order (Petsiuk,
Das and Saenko, RISE, BMVC 2018); pixels that are out are interpolated from those that are not, as `imputation` says.
Both curves are of the probability of a tumour over the hottest fifth of the pixels. A faithful heatmap has a small area
under the deletion curve and a large one under the insertion curve, as a fraction of the whole; `faithfulness` is the
difference, −1 to 1. What it is worth shows beside other maps of the same planes: random blobs inside the head, and
nearness to the middle of the head.

The pointing game (Zhang et al., ECCV 2016) asks whether the hottest pixel lies in the outline of the tumour.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from scipy.special import expit

from brainscale.models.head_mask import find_head_mask
from brainscale.models.imputation import hide
from brainscale.seeds import derive
from brainscale.stats.estimate import Estimate
from brainscale.stats.group_means import estimate_mean
from brainscale.stats.resampling import group_codes

if TYPE_CHECKING:  # it imports torch
    from brainscale.models.explained_score import Score

PART = 1 / 5
"""Fraction of the pixels that the curves go over, the hottest ones: a tumour is a few per cent of a plane, and what
comes after it says little of the heatmap."""
STEPS = 12
"""Steps of a curve; each changes the same number of pixels."""
BLOB = 1 / 16
"""Standard deviation of the blobs of a random map, as a fraction of the side: as smooth as heatmaps are."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """What deletion and insertion say of one heatmap.

    Attributes:
        deletion: area under the deletion curve, 0..1; small if the map is faithful.
        insertion: area under the insertion curve, 0..1; large if the map is faithful.
    """

    deletion: float
    insertion: float

    @property
    def faithfulness(self) -> float:
        """Insertion less deletion, −1..1."""
        return self.insertion - self.deletion


@dataclass(frozen=True, kw_only=True)
class MeasuredHeatmap:
    """What deletion and insertion say of a heatmap, and of random blobs in the same plane."""

    own: Faithfulness
    random: Faithfulness


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSummary:
    """The faithfulness of a method for a model, beside that of random maps.

    Attributes:
        method: name of the method.
        own: mean areas of the heatmaps.
        random: mean areas of random blobs inside the head.
        gain: by how much the heatmaps are more faithful than the random maps, with its 95 % interval by group.
    """

    method: str
    own: Faithfulness
    random: Faithfulness
    gain: Estimate

    @property
    def is_shown(self) -> bool:
        """Whether the whole interval is above 0: only then do the heatmaps show what the model goes by."""
        return self.gain.low is not None and self.gain.low > 0


def summarise_faithfulness(
    method: str, measured: Sequence[MeasuredHeatmap], groups: Sequence[str | None]
) -> FaithfulnessSummary:
    """Return the means over samples, and the interval of the paired difference.

    Args:
        method: name of the method.
        measured: one for each sample, at least one.
        groups: name of each sample's group; a sample without one is a group of its own.
    """
    named = [f"sample {i}" if group is None else f"group {group}" for i, group in enumerate(groups)]
    gains = np.array([each.own.faithfulness - each.random.faithfulness for each in measured])
    own, random = (_mean([getattr(each, name) for each in measured]) for name in ("own", "random"))
    return FaithfulnessSummary(method=method, own=own, random=random, gain=estimate_mean(gains, group_codes(named)))


def _mean(measured: Sequence[Faithfulness]) -> Faithfulness:
    return Faithfulness(
        deletion=float(np.mean([each.deletion for each in measured])),
        insertion=float(np.mean([each.insertion for each in measured])),
    )


def measure_beside_random(score: "Score", plane: np.ndarray, heatmap: np.ndarray) -> MeasuredHeatmap:
    """Return the faithfulness of a heatmap and of random blobs in the same plane; the arguments of `measure_heatmap`.

    The blobs depend on the plane alone, so that the same call gives the same figures.
    """
    blobs = random_map(plane, hashlib.sha256(plane.tobytes()).hexdigest())
    return MeasuredHeatmap(own=measure_heatmap(score, plane, heatmap), random=measure_heatmap(score, plane, blobs))


def measure_heatmap(score: "Score", plane: np.ndarray, heatmap: np.ndarray, steps: int = STEPS) -> Faithfulness:
    """Return the areas under the deletion and the insertion curve of one heatmap.

    Args:
        score: function from planes to the log-odds that the heatmap explains.
        plane: uint8 [S, S].
        heatmap: [S, S], not negative.
        steps: number of steps of each curve.
    """
    changed = changed_pixels(heatmap, steps)
    probabilities = expit(score(hide(plane, np.concatenate([changed, ~changed]))))
    return Faithfulness(deletion=area(probabilities[: steps + 1]), insertion=area(probabilities[steps + 1 :]))


def changed_pixels(heatmap: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Return which pixels each step of a curve has changed, bool [steps + 1, S, S]: none at first, `PART` at last.

    Pixels of the same heat are changed in a random order, always the same: the order of rows would favour the top.
    """
    hottest_first = np.lexsort((np.random.default_rng(0).random(heatmap.size), -heatmap.ravel()))
    rank = np.empty(heatmap.size, np.int64)
    rank[hottest_first] = np.arange(heatmap.size)
    counts = np.rint(np.linspace(0, PART * heatmap.size, steps + 1))
    return np.asarray(rank.reshape(heatmap.shape) < counts[:, None, None])


def area(curve: np.ndarray) -> float:
    """Return the area under a curve over 0..1 with points at equal distances, by the trapezoidal rule."""
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1)))


def find_peak(heatmap: np.ndarray) -> tuple[int, int] | None:
    """Return row and column of the hottest pixel, or None if the heatmap is 0 everywhere."""
    if not heatmap.max() > 0:
        return None
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    return int(row), int(column)


def is_peak_in(heatmap: np.ndarray, region: np.ndarray) -> bool:
    """Return whether the hottest pixel lies in a region, bool [S, S]; False without a hottest pixel."""
    peak = find_peak(heatmap)
    return peak is not None and bool(region[peak])


def random_map(plane: np.ndarray, *purpose: str | int) -> np.ndarray:
    """Return random blobs inside the head, float64 [S, S] in 0..1.

    Args:
        plane: uint8 [S, S].
        purpose: what the map is for, such as a number; each has its own blobs.
    """
    noise = np.random.default_rng(derive(0, "random map", *purpose)).normal(size=plane.shape)
    blobs = ndimage.gaussian_filter(noise, BLOB * plane.shape[0])
    return _inside_head(plane, (blobs - blobs.min()) / (blobs.max() - blobs.min()))


def centre_map(plane: np.ndarray) -> np.ndarray:
    """Return the nearness to the middle of the head, float64 [S, S] in 0..1."""
    head = find_head_mask(plane)
    row, column = np.argwhere(head if head.any() else ~head).mean(0)
    rows, columns = np.indices(plane.shape)
    distance = np.hypot(rows - row, columns - column)
    return _inside_head(plane, 1 - distance / distance.max())


def _inside_head(plane: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a map with the pixels outside the head last."""
    return np.asarray(np.where(find_head_mask(plane), 0.5 + heat / 2, heat / 2))
