"""Cases of the report's gallery: single samples with their pictures, in rows by outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

SCALE_STEPS, SCALE_GREY = 32, 96
"""Colours of the scale, and the grey value of the tissue under them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sample of the gallery.

    Attributes:
        sample_id: its name.
        label: its class.
        prediction: its predicted class.
        probability: probability of a tumour.
        like_it: number of other samples of its group with the same outcome, which it stands for.
        picture: the scan as the model sees it, where it is shown: PNG.
        heatmap: the scan under its heatmap: JPEG.
        heatmap_note: what is wrong with the heatmap, such as a peak outside the head; None if nothing is.
        withheld: whether the pictures are left out because they may show a name.
    """

    sample_id: str
    label: str
    prediction: str
    probability: float
    like_it: int = 0
    picture: bytes | None = None
    heatmap: bytes | None = None
    heatmap_note: str | None = None
    withheld: bool = False


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """Cases with one outcome.

    Attributes:
        title: name of the outcome.
        about: how many samples have it, and which of them are shown.
        cases: one case for each group of samples.
    """

    title: str
    about: str
    cases: Sequence[Case] = ()


def describe_missing(rows: Sequence[CaseRow]) -> str | None:
    """Return in one sentence that images could not be read again for their pictures; None where all could."""
    shown = [case for row in rows for case in row.cases if not case.withheld]
    missing = sum(case.picture is None for case in shown)
    if not missing:
        return None
    return (
        f"{missing} of {len(shown)} images could not be read for this report, because they are gone or have changed, "
        "and have no picture."
    )


@cache
def scale_colours() -> list[str]:
    """Return the colours of a heatmap over grey tissue, from no evidence to the strongest, each as #rrggbb."""
    from brainscale.models.heatmap_pictures import overlay_heatmap  # here: it needs torch

    steps = np.linspace(0, 1, SCALE_STEPS)[None]
    plane = np.full(steps.shape, SCALE_GREY, np.uint8)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in overlay_heatmap(plane, steps)[0].tolist()]
