"""The header-only control beside a model: a model that is no better may have learnt how the files were made."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.header_control import HeaderPredictions, choose_rows, predict_from_headers, rows_to_learn_from
from brainscale.errors import ManifestError
from brainscale.stats.estimate import Estimate
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.paired_tests import compare_with_control

CONTROL = "header-only control"
"""Predicts a tumour from file size, width, height and pixel mode alone: a model that is no better learnt a shortcut."""


@dataclass(frozen=True, kw_only=True)
class HeaderComparison:
    """A model beside the header-only control, on the same samples: tumour against none.

    Attributes:
        model: AUROC of the model.
        control: AUROC of the control.
        difference: the first less the second, with DeLong's interval by group.
        p: p-value of DeLong's test, two-sided.
        n: number of samples.
        reason: why there is no comparison.
    """

    model: Estimate | None = None
    control: Estimate | None = None
    difference: Estimate | None = None
    p: float | None = None
    n: int = 0
    reason: str | None = None

    @property
    def verdict(self) -> str:
        """What the comparison says of the model, in one sentence."""
        if self.model is None or self.control is None or self.difference is None:
            return f"There is no header-only control to compare with: {self.reason}."
        if self.difference.low is None:
            return f"The difference from the control has no interval: {self.difference.reason}."
        if self.difference.low > 0:
            return "The model is better than the control, so file headers alone do not explain its predictions."
        if self.difference.value is not None and self.difference.value > 0:
            return "The model is not shown to be better than the control, which sees no picture."
        return "The model is no better than the control, which sees no picture."

    @property
    def warns(self) -> bool:
        """Whether the model is not shown to be better than the control."""
        return self.difference is not None and self.difference.low is not None and self.difference.low <= 0


def compare_with_headers(
    manifest: pa.Table,
    sample_ids: pa.ChunkedArray,
    samples: LabelledProbabilities,
    votes: HeaderPredictions | None = None,
) -> HeaderComparison:
    """Compare a model with the control, which is cross-validated by group on the whole manifest.

    Of a large set both are measured on `CONTROL_ROWS` samples, so neither memory nor time grows with it.

    Args:
        manifest: manifest of the samples, and of others to learn from.
        sample_ids: ids of the labelled samples that the model was evaluated on.
        samples: their labels and probabilities, in the same order.
        votes: votes of the control on the same samples, if there are any; by default they are made.
    """
    if samples.not_finite:
        return HeaderComparison(reason="a probability is not a finite number")
    chosen = choose_rows(len(samples))
    samples, sample_ids = samples.take(chosen), pc.take(sample_ids, pa.array(chosen))
    if votes is None:
        classes = {name: int(i > 0) for i, name in enumerate(samples.classes)}
        try:
            votes = predict_from_headers(rows_to_learn_from(manifest, sample_ids), classes)
        except ManifestError as error:
            return HeaderComparison(reason=str(error))
    votes = votes.select(sample_ids.to_pylist())
    compared = compare_with_control(samples, votes.probabilities[:, 1])
    return HeaderComparison(**vars(compared), n=len(samples))
