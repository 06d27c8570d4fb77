"""The result of a cross-validation: metrics of each fold, their spread, and those of all folds together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
import pyarrow as pa

from brainscale.stats.estimate import estimates_of
from brainscale.stats.metric_names import PUBLISHED_NOTE, metric_name

WITHIN_FOLDS_NOTE = (
    "AUROC, average precision and calibration are computed within each fold and averaged;\n"
    "the other metrics count all predictions, each at the threshold of its own model."
)


@dataclass(frozen=True)
class Spread:
    """A metric over the folds.

    Attributes:
        mean: mean of the folds; None where no fold has a value.
        deviation: standard deviation of the folds; None with fewer than two values.
    """

    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread":
        """Return the spread of the values that are defined."""
        defined = np.array([value for value in values if value is not None], np.float64)
        return cls(
            mean=float(defined.mean()) if len(defined) else None,
            deviation=float(defined.std(ddof=1)) if len(defined) > 1 else None,
        )


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A cross-validation.

    Attributes:
        path: folder of all runs, a path or an address.
        models: run folder of each model, relative to it.
        folds: number of folds.
        repeats: number of times that the data was divided into folds.
        by_fold: metric of SHOWN or SHOWN_MULTICLASS → its value in each fold.
        metrics: table of schema METRICS of all out-of-fold predictions, as `measure_folds` computes it.
        config_sha256: fingerprint of the configuration.
        manifest_sha256: fingerprint of the manifest and of the splits of all models.
        folds_by: column whose values are the folds; None where folds were drawn.
        fold_names: value of each fold, where there is such a column.
    """

    path: str
    models: Sequence[str]
    folds: int
    repeats: int
    by_fold: Mapping[str, Sequence[float | None]]
    metrics: pa.Table
    config_sha256: str
    manifest_sha256: str
    folds_by: str | None = None
    fold_names: Sequence[str] = ()

    @property
    def spread(self) -> Mapping[str, Spread]:
        """Metric → its mean and deviation over the folds."""
        return {name: Spread.of(values) for name, values in self.by_fold.items()}

    def to_json(self) -> dict[str, Any]:
        """Return what `_SUCCESS.json` says: metrics of each fold with mean and deviation, and all together."""
        combined = {
            name: {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
            for name, estimate in estimates_of(self.metrics).items()
        }
        return {
            "models": list(self.models),
            "figures": {name: list(values) for name, values in self.by_fold.items()},
            "spread": {name: vars(spread) for name, spread in self.spread.items()},
            "combined": combined,
            "folds": self.folds,
            "repeats": self.repeats,
            "folds_by": self.folds_by,
            "fold_names": list(self.fold_names),
            "config_sha256": self.config_sha256,
            "manifest_sha256": self.manifest_sha256,
        }

    def to_text(self) -> str:
        """Return a line for each metric: mean and deviation of the folds, then the value of all with its interval."""
        combined, lines = estimates_of(self.metrics), []
        for name, spread in self.spread.items():
            estimate = combined[name]
            interval = "–" if estimate.low is None else f"{estimate.low:.4f} to {estimate.high:.4f}"
            mean, deviation, value = (
                "–" if number is None else f"{number:.4f}" for number in (spread.mean, spread.deviation, estimate.value)
            )
            lines.append(f"{metric_name(name).name:<34}{mean:>9}{deviation:>11}{value:>11}  {interval}")
        if self.folds_by is not None:
            lines += [*self._lines_of_folds(), ""]
        heading = f"{'Metric':<34}{'Mean':>9}{'Deviation':>11}{'All folds':>11}  95 % interval"
        return "\n".join([heading, *lines, WITHIN_FOLDS_NOTE, fill(PUBLISHED_NOTE, 80)])

    def _lines_of_folds(self) -> list[str]:
        """Return a line for each fold of a column, with AUROC, sensitivity and specificity."""
        prefix = "" if "auroc" in self.by_fold else "tumour_"
        names = [f"{prefix}{name}" for name in ("auroc", "sensitivity", "specificity")]
        lines = ["", f"{f'Tested on {self.folds_by}':<34}" + "".join(f"{metric_name(n).name:>20}" for n in names)]
        for number, fold_name in enumerate(self.fold_names):
            values = (self.by_fold[name][number] for name in names)
            texts = ("–" if value is None else f"{value:.4f}" for value in values)
            lines.append(f"  {fold_name:<32}" + "".join(f"{text:>20}" for text in texts))
        return lines
