"""What validation says of a sensitivity or specificity, with a confidence; no scipy, which scoring does without."""

import math
from dataclasses import dataclass
from typing import Literal

Metric = Literal["sensitivity", "specificity"]


@dataclass(frozen=True, kw_only=True)
class TargetBound:
    """What validation says of the sensitivity or specificity of a threshold.

    Attributes:
        metric: sensitivity or specificity.
        target: value to reach.
        confidence: confidence of the lower bound.
        lower_bound: value that the metric has at least, with that confidence.
        observed: value on the validation samples.
        samples: number of these samples, with a tumour for sensitivity and without for specificity.
        groups: number of groups that they are in.
        independent_samples: number of independent samples that they are worth.
    """

    metric: Metric
    target: float
    confidence: float
    lower_bound: float
    observed: float
    samples: int
    groups: int
    independent_samples: float

    @property
    def is_reached(self) -> bool:
        """Whether the bound reaches the target."""
        return self.lower_bound >= self.target

    @property
    def missing_samples(self) -> int | None:
        """The number of samples that validation lacks; None where no number is enough."""
        if self.target == 1:
            return None
        needed = math.log(1 - self.confidence) / math.log(self.target)
        return max(0, math.ceil(needed * self.samples / self.independent_samples - 1e-9) - self.samples)

    def describe(self, units: str = "samples") -> str:
        """Return the choice and its bound in words.

        Args:
            units: what the samples are.
        """
        kind = "with a tumour" if self.metric == "sensitivity" else "without a tumour"
        basis = f"{self.samples} validation {units} {kind}"
        if self.groups < self.samples:
            basis += f" in {self.groups} groups, worth {self.independent_samples:.0f} independent ones"
        promise = f"a {self.metric} of {self.target:g} with {100 * self.confidence:g} % confidence"
        bound = f"lower bound {self.lower_bound:.4f}, {self.observed:.4f} on validation"
        order = "highest" if self.metric == "sensitivity" else "lowest"
        if self.is_reached:
            return f"{order} threshold that reaches {promise} on {basis} ({bound})"
        missing = self.missing_samples
        lack = (
            f"no number of {units} can promise it" if missing is None else f"validation has {missing} too few of them"
        )
        if missing == 0:
            lack = "too many of them have a score of 1"
        return f"{order} threshold with the best bound on {basis} ({bound}): {promise} cannot be promised, as {lack}"
