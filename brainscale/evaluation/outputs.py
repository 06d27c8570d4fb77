"""Files of an evaluation: predictions, metrics, subgroups, plots, the report, the model's card."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.patients import describe_unknown_patients
from brainscale.errors import ManifestError
from brainscale.evaluation.header_comparison import HeaderComparison, compare_with_headers
from brainscale.evaluation.matched import MatchedEvaluation, evaluate_matched, match_labelled, write_matched
from brainscale.evaluation.provenance import find_source_name, format_time, group_facts, model_facts
from brainscale.evaluation.report.cases import CaseRow
from brainscale.evaluation.report.page import ReportPage, SampleFlow, write_report
from brainscale.evaluation.report.plots import draw_plots
from brainscale.evaluation.report.summary import IMAGE, SLICE, Sampling
from brainscale.evaluation.report.summary import Unit as UnitWords
from brainscale.evaluation.results import CONFUSION_FILE, METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, EvaluationFacts
from brainscale.evaluation.sample_flow import count_duplicates, count_flow
from brainscale.evaluation.units import UNIT_FILES, EvaluatedUnits, describe_score, drop_threshold_metrics
from brainscale.evaluation.unusual_samples import summarise_novelty
from brainscale.models.bundle import EDITED, Bundle, OperatingPoint, mark_edited
from brainscale.models.faithfulness import FaithfulnessSummary
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.scoring.per_unit import table_kind
from brainscale.stats.confusion import confusion_table
from brainscale.stats.labelled import LabelledProbabilities, labelled_rows, values_of
from brainscale.stats.metrics import describe_degenerate, measure
from brainscale.stats.resampling import Map
from brainscale.stats.subgroups import measure_subgroups
from brainscale.stats.units import Unit
from brainscale.storage.tables import write_table
from brainscale.training.run_folder import RunFolder, describe_training_data


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


def write_outputs(folder: Path, model: EvaluatedModel, facts: EvaluationFacts, run: Map = map) -> pa.Table:
    """Write all files of an evaluation but its manifest and `_SUCCESS.json`.

    Args:
        folder: where to write.
        model: the model, and what it predicted.
        facts: what the outputs say of the evaluation.
        run: computes parts of a large bootstrap, as for `measure`.

    Returns:
        The metrics, of schema METRICS.

    Raises:
        ManifestError: no labelled sample could be read.
    """
    if not len(model.labelled):
        what = "sample" if model.unit == "slice" else f"slice of a {model.unit}"
        raise ManifestError(f"no labelled {what} could be read: `brainscale index` says why, file by file")
    metrics = drop_threshold_metrics(measure(model.samples, model.prevalence, run), model.no_threshold)
    control, sampling = _compare_with_headers(model), _sampling(model, facts)
    flow, duplicates = _count_flow(model), count_duplicates(model.rows)
    write_table(model.predictions, folder / PREDICTIONS_FILE, "predictions")
    _write_confusion(folder, model)
    _write_units(folder, model)
    subgroups = _write_subgroups(folder, model, run)
    without_leaked = _write_leakage(folder, model, run)
    write_matched(folder, model.matched, model.bundle)
    metadata = {
        key: str(value) for key, value in _metadata(model, facts).items()
    }  # from here on torch takes memory too
    metrics = metrics.replace_schema_metadata(metadata)
    write_table(metrics, folder / METRICS_FILE, "metrics")
    time, name = format_time(datetime.now(UTC)), facts.data or find_source_name(model.manifest)
    page = ReportPage(
        title=_title(facts, name),
        about=_about(model, facts, name, time),
        sampling=sampling,
        samples=model.samples,
        metrics=metrics,
        control=control,
        matched=model.matched,
        threshold_source="none" if model.operating_point is None else model.operating_point.threshold_source,
        no_threshold=model.no_threshold,
        prevalence=model.prevalence,
        plots=draw_plots(model.samples, folder / "plots", has_threshold=model.no_threshold is None),
        history=None if model.run is None else model.run.history(),
        cases=_choose_cases(model),
        unlabelled=model.unlabelled,
        unknown_patients=describe_unknown_patients(model.rows),
        flow=flow,
        duplicates=duplicates,
        leaked=None if model.leaked is None else Counter(model.leaked["kind"].to_pylist()),
        without_leaked=without_leaked,
        looks=model.looks,
        looks_note=facts.looks_note,
        degenerate=facts.degenerate,
        faithfulness=_measure_faithfulness(model),
        novelty=summarise_novelty(model.bundle, model.rows, model.predictions, show_burned_in=model.show_burned_in),
        edited=EDITED if model.bundle.edited else None,
        subgroups=subgroups,
        facts=group_facts(_facts_of_report(model, facts, name, time)),
    )
    write_report(folder / REPORT_FILE, page)
    return metrics


def _title(facts: EvaluationFacts, data: str | None) -> str:
    split = "all samples" if facts.split == "all" else f"{facts.split} split"
    by = "" if facts.unit == "slice" else f" by {facts.unit}"
    return f"{facts.model}{f' on {data}' if data else ''}: {split}{by}"


def _compare_with_headers(model: EvaluatedModel) -> HeaderComparison | None:
    """Return the model beside the header-only control, which knows files, not scans or patients."""
    if model.unit != "slice":
        return None
    return compare_with_headers(model.manifest, model.labelled["sample_id"], model.samples)


def _count_flow(model: EvaluatedModel) -> SampleFlow:
    """Return the numbers of samples at each step, down to the scans or patients that they are in."""
    flow = count_flow(model.manifest, model.rows, model.predictions)
    if model.of_units is None:
        return flow
    return replace(flow, steps={**flow.steps, f"{model.unit}s used": len(model.labelled)})


def _choose_cases(model: EvaluatedModel) -> list[CaseRow]:
    """Return the cases of the gallery; without a threshold no case is correct or wrong."""
    if model.no_threshold is not None:
        return []
    from brainscale.evaluation.gallery import choose_cases  # here, as in `_metadata`

    shown = model.show_burned_in
    return choose_cases(model.bundle, model.rows, model.labelled, model.samples, show_burned_in=shown)


def _measure_faithfulness(model: EvaluatedModel) -> FaithfulnessSummary | None:
    """Return how faithful heatmaps of this model are."""
    from brainscale.evaluation.heatmap_quality import measure_faithfulness  # here, as in `_metadata`

    return measure_faithfulness(model.bundle, model.rows, model.labelled)


def _write_units(folder: Path, model: EvaluatedModel) -> None:
    """Write the table of scans or patients, where these are evaluated."""
    for stale in UNIT_FILES:
        (folder / stale).unlink(missing_ok=True)  # of an evaluation before this one
    if model.of_units is not None:
        kind = table_kind(model.unit)
        write_table(mark_edited(model.of_units.table, model.bundle), folder / f"{kind}.parquet", kind)


def _about(model: EvaluatedModel, facts: EvaluationFacts, data: str | None, time: str) -> dict[str, str]:
    """Return what stands under the title."""
    samples = f"{facts.samples:,} {'sample' if facts.samples == 1 else 'samples'}"
    return {
        "Data": f"{data}, {samples}" if data else samples,
        "Evaluated": time,
        "Model": f"{facts.model}, run {facts.run}, weights {facts.weights_sha256[:12]}",
        **({} if model.of_units is None else {"Score": describe_score(model.of_units)}),
        **({"Command": model.command} if model.command else {}),
    }


def _sampling(model: EvaluatedModel, facts: EvaluationFacts) -> Sampling:
    """Return what the labelled samples are, in the words of the first sentence."""
    labelled = pc.is_in(model.rows["sample_id"], model.labelled["sample_id"].combine_chunks())
    patients, frames = (model.rows[name].filter(labelled) for name in ("patient", "frame"))
    words = IMAGE if frames.null_count == len(frames) else SLICE
    return Sampling(
        unit=words if model.unit == "slice" else UnitWords(model.unit, f"{model.unit}s"),
        split=facts.split,
        patients=len(patients.drop_null().unique()),
        without_patient=patients.null_count,
    )


def _facts_of_report(model: EvaluatedModel, facts: EvaluationFacts, data: str | None, time: str) -> dict[str, object]:
    """Return all facts of the report, with the threshold of the unit."""
    point = model.operating_point
    threshold = None if point is None else f"{point.threshold:.6g} ({point.threshold_source})"
    known = {**facts.to_json(), **model_facts(model.bundle.info), "threshold": threshold}
    return {**known, "data": data, "command": model.command, "date": time}


def complete_card(model: EvaluatedModel, metrics: pa.Table, facts: EvaluationFacts) -> None:
    """Write the metrics of the run's own test split to its model card.

    Raises:
        OutputError: the model's folder cannot be written.
    """
    trained, info = None if model.run is None else model.run.result(), model.bundle.info
    is_own_test = (facts.split, facts.unit, facts.manifest_sha256) == ("test", "slice", info.manifest_sha256)
    if trained is None or not is_own_test:
        return
    card = ModelFacts(
        info=info,
        training=describe_training_data(trained),
        unknown_patients=describe_unknown_patients(model.manifest),
        metrics=metrics,
        evaluated_on="the test split of its own data",
        prevalence=model.prevalence,
        degenerate=facts.degenerate,
        edited=model.bundle.edited,
    )
    write_model_card(model.bundle.folder, card)


def _metadata(model: EvaluatedModel, facts: EvaluationFacts) -> dict[str, Any]:
    """Return what a comparison of models needs to know."""
    from brainscale.models.ensemble import (
        count_model_flops,
    )  # here: it needs torch, and the metrics of a million memory

    info = model.bundle.info
    cost = count_model_flops(info.network, len(info.classes), info.preprocess.image_size)
    classes = json.dumps(list(info.classes))
    known = {name: value for name, value in facts.to_json().items() if value is not None}
    point = model.operating_point
    return {**known, "flops": cost, "classes": classes, "threshold": None if point is None else point.threshold}


def _write_confusion(folder: Path, model: EvaluatedModel) -> None:
    """Write the confusion matrix, where something is predicted."""
    path = folder / CONFUSION_FILE
    path.unlink(missing_ok=True)  # of an evaluation before this one
    if model.no_threshold is None:
        write_table(confusion_table(model.samples), path, "confusion")


def _write_subgroups(folder: Path, model: EvaluatedModel, run: Map) -> pa.Table | None:
    """Write and return the metrics of the subgroups, where columns are given."""
    path = folder / "subgroups.parquet"
    path.unlink(missing_ok=True)  # of an evaluation before this one
    if not model.by:
        return None
    tables = [measure_subgroups(model.samples, model.column(name), column=name, run=run) for name in model.by]
    table = mark_edited(drop_threshold_metrics(pa.concat_tables(tables), model.no_threshold), model.bundle)
    write_table(table, path, "subgroups")
    return table


def _write_leakage(folder: Path, model: EvaluatedModel, run: Map) -> pa.Table | None:
    """Write which samples the model has seen; write and return the metrics of the others, where there are both."""
    leaked_path, path = folder / "shared.parquet", folder / "metrics-without-shared.parquet"
    for stale in (leaked_path, path):
        stale.unlink(missing_ok=True)  # of an evaluation before this one
    if model.leaked is None:
        return None
    write_table(mark_edited(model.leaked, model.bundle), leaked_path, "overlap")
    if model.of_units is not None:
        unseen = ~model.of_units.contain(model.leaked["sample_id"].to_pylist())
    else:
        seen = pc.is_in(model.labelled["sample_id"], model.leaked["sample_id"].combine_chunks())
        unseen = np.asarray(pc.invert(seen).to_numpy(), bool)
    if unseen.all() or not unseen.any():
        return None
    table = drop_threshold_metrics(measure(model.samples.take(unseen), model.prevalence, run), model.no_threshold)
    table = mark_edited(table, model.bundle)
    write_table(table, path, "metrics")
    return table
