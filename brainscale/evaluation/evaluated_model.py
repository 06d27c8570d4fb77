"""A model's predictions beside what is known of the samples."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.header_control import HeaderPredictions
from brainscale.errors import ManifestError
from brainscale.evaluation.header_votes import find_votes
from brainscale.evaluation.matched import MatchedEvaluation, evaluate_matched, match_labelled
from brainscale.evaluation.units import EvaluatedUnits
from brainscale.models.bundle import Bundle, OperatingPoint
from brainscale.stats.labelled import LabelledProbabilities, labelled_rows, values_of
from brainscale.stats.metrics import describe_degenerate
from brainscale.stats.units import Unit
from brainscale.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model's predictions beside what is known of the samples.

    Attributes:
        bundle: the model.
        run: its run folder, where there is one.
        manifest: all samples of the data.
        rows: those of the split that was evaluated.
        predictions: table of schema PREDICTIONS, one row for each of them.
        leaked: those that trained or selected the model, as `find_overlap` gives them; None where that is unknown.
        looks: number of models that were evaluated on these samples; None for splits that training used.
        prevalence: share of tumours where the model will be used.
        by: columns whose subgroups get metrics of their own.
        match: columns that pairs of samples are matched on.
        show_burned_in: whether the report shows pictures of samples with text burned in.
        command: the command line that makes this evaluation.
        unit: what is decided on.
        report: whether plots and the report are written.
        evaluation: folder of the evaluation where it exists already.
    """

    bundle: Bundle
    run: RunFolder | None
    manifest: pa.Table
    rows: pa.Table
    predictions: pa.Table
    leaked: pa.Table | None = None
    looks: int | None = None
    prevalence: float | None = None
    by: Sequence[str] = ()
    match: Sequence[str] = ()
    show_burned_in: bool = False
    command: str | None = None
    unit: Unit = "slice"
    report: bool = True
    evaluation: Path | None = None

    @cached_property
    def of_units(self) -> EvaluatedUnits | None:
        """The scans or patients; None where slices are evaluated."""
        if self.unit == "slice":
            return None
        return EvaluatedUnits.of(self.predictions, self.rows, self.unit, self.bundle.info)

    @property
    def no_threshold(self) -> str | None:
        """Why the model predicts nothing for this unit; None where it does."""
        return None if self.of_units is None else self.of_units.no_threshold

    @property
    def operating_point(self) -> OperatingPoint | None:
        """Operating point of the unit."""
        return self.bundle.info.operating_points.get(self.unit)

    @cached_property
    def labelled(self) -> pa.Table:
        """What counts, with a label and probabilities: predictions, or a slice for each scan or patient."""
        return labelled_rows(self.predictions) if self.of_units is None else self.of_units.labelled

    @property
    def unlabelled(self) -> int:
        """The number of rows with probabilities but without a label."""
        is_scored = pc.is_null(self.predictions["error_code"])
        return pc.sum(pc.and_(is_scored, pc.is_null(self.predictions["label"]))).as_py() or 0

    @cached_property
    def samples(self) -> LabelledProbabilities:
        """Labels and probabilities of these rows."""
        if self.of_units is not None:
            return self.of_units.samples
        info = self.bundle.info
        return LabelledProbabilities.from_predictions(
            self.labelled, list(info.classes), threshold=info.threshold, groups=self.rows
        )

    @cached_property
    def matched(self) -> MatchedEvaluation | None:
        """The model on pairs of samples that agree in the columns `match`; None without such a column."""
        if not self.match:
            return None
        matched = match_labelled(self.manifest, self.labelled["sample_id"], self.samples, self.match)
        return evaluate_matched(matched, self.samples, no_threshold=self.no_threshold)

    @cached_property
    def header_votes(self) -> HeaderPredictions | None:
        """The header-only control's votes on these rows; None for scans and patients, or with too few groups."""
        if self.unit != "slice":
            return None
        with suppress(ManifestError):
            classes = list(self.bundle.info.classes)
            return find_votes(self.evaluation, lambda: self.manifest, self.labelled["sample_id"], classes)
        return None

    @property
    def degenerate(self) -> str | None:
        """One sentence where the model does not tell samples apart; without a threshold only scores can say so."""
        one_score = bool((self.samples.probabilities == self.samples.probabilities[:1]).all())
        text = describe_degenerate(self.samples) if one_score or self.no_threshold is None else None
        return text if text is None or self.unit == "slice" else text.replace("every sample", f"every {self.unit}")

    def column(self, name: str) -> list[Any]:
        """Return the values of a manifest's column for these rows."""
        if self.of_units is not None:
            pairs = zip(self.rows["sample_id"].to_pylist(), self.rows[name].to_pylist(), strict=True)
            return self.of_units.column(pairs)
        values: list[Any] = values_of(self.labelled["sample_id"], self.rows, name).to_pylist()
        return values
