"""One metric with its interval, or the reason why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One figure; a value or an interval that does not exist is None, with the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    n: int
    reason: str | None = None


def missing_class(labels: np.ndarray, classes: Sequence[str]) -> str | None:
    """What to say where a class has no sample; None where each has one."""
    return next((f"no sample of class {name}" for i, name in enumerate(classes) if not (labels == i).any()), None)
