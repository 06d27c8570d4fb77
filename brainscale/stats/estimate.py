"""One metric with its interval, or the reason why it has none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from brainscale.stats.resampling import count_distinct

NOT_FINITE = "a probability is not a finite number"
ONE_SAMPLE = "no interval: a class has one sample, or one group"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The value of a metric with its 95 % interval; a value or an interval that is undefined is None.

    Attributes:
        value: value of the metric.
        low: lower end of the interval.
        high: upper end of the interval.
        method: how the interval was computed.
        n: number of samples behind the value.
        reason: why the value or the interval is undefined, or what the interval leaves out.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    n: int
    reason: str | None = None


def missing_class(labels: np.ndarray, classes: Sequence[str]) -> str | None:
    """Return the reason why a metric is undefined where a class has no sample, or None where each has one."""
    return next((f"no sample of class {name}" for i, name in enumerate(classes) if not (labels == i).any()), None)


def name_method(method: str, codes: np.ndarray) -> str:
    """Return the name of a method, with "by group" where a group has several samples.

    Args:
        method: its name.
        codes: int [n], number of each sample's group.
    """
    return f"{method} by group" if count_distinct(codes) < len(codes) else method


def estimates_of(table: pa.Table) -> dict[str, Estimate]:
    """Return the rows of a table of schema METRICS by the name of the metric, in its order."""
    return {row.pop("metric"): Estimate(**row) for row in table.to_pylist()}
