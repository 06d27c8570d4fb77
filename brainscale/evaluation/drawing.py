"""Draw the plots of an evaluation and write its report."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from brainscale import progress
from brainscale.dataset.patients import describe_unknown_patients
from brainscale.evaluation.evaluated_model import EvaluatedModel
from brainscale.evaluation.header_comparison import HeaderComparison, compare_with_headers
from brainscale.evaluation.provenance import find_source_name, format_time, group_facts, model_facts
from brainscale.evaluation.report.cases import CaseRow
from brainscale.evaluation.report.page import ReportPage, SampleFlow, write_report
from brainscale.evaluation.report.plots import draw_plots
from brainscale.evaluation.report.summary import IMAGE, SLICE, Sampling
from brainscale.evaluation.report.summary import Unit as UnitWords
from brainscale.evaluation.results import PLOTS_FOLDER, REPORT_FILE, EvaluationFacts
from brainscale.evaluation.sample_flow import count_duplicates, count_flow
from brainscale.evaluation.units import describe_score
from brainscale.evaluation.unusual_samples import summarise_novelty
from brainscale.models.bundle import EDITED
from brainscale.models.faithfulness import FaithfulnessSummary


class ReportTables(NamedTuple):
    """Tables of an evaluation that its report shows: metrics, of subgroups, and without leaked samples."""

    metrics: pa.Table
    subgroups: pa.Table | None
    without_leaked: pa.Table | None


def draw_report(
    folder: Path,
    model: EvaluatedModel,
    facts: EvaluationFacts,
    tables: ReportTables,
    evaluated: datetime | None = None,
) -> None:
    """Draw the plots and write the report.

    Args:
        folder: where to write.
        model: the model, and what it predicted.
        facts: what the outputs say of the evaluation.
        tables: the tables to show.
        evaluated: when the model was evaluated; None for now.
    """
    progress.stage("drawing the report")
    time, name = format_time(evaluated or datetime.now(UTC)), facts.data or find_source_name(model.manifest)
    page = ReportPage(
        title=_title(facts, name),
        about=_about(model, facts, name, time),
        sampling=_sampling(model, facts),
        samples=model.samples,
        metrics=tables.metrics,
        control=_compare_with_headers(model),
        matched=model.matched,
        threshold_source="none" if model.operating_point is None else model.operating_point.threshold_source,
        no_threshold=model.no_threshold,
        prevalence=model.prevalence,
        plots=draw_plots(model.samples, folder / PLOTS_FOLDER, has_threshold=model.no_threshold is None),
        history=None if model.run is None else model.run.history(),
        cases=_choose_cases(model),
        unlabelled=model.unlabelled,
        unknown_patients=describe_unknown_patients(model.rows),
        flow=_count_flow(model),
        duplicates=count_duplicates(model.rows),
        leaked=None if model.leaked is None else Counter(model.leaked["kind"].to_pylist()),
        without_leaked=tables.without_leaked,
        looks=model.looks,
        looks_note=facts.looks_note,
        degenerate=facts.degenerate,
        faithfulness=_measure_faithfulness(model),
        novelty=summarise_novelty(model.bundle, model.rows, model.predictions, show_burned_in=model.show_burned_in),
        edited=EDITED if model.bundle.edited else None,
        subgroups=tables.subgroups,
        facts=group_facts(_facts_of_report(model, facts, name, time)),
    )
    write_report(folder / REPORT_FILE, page)


def _title(facts: EvaluationFacts, data: str | None) -> str:
    split = "all samples" if facts.split == "all" else f"{facts.split} split"
    by = "" if facts.unit == "slice" else f" by {facts.unit}"
    return f"{facts.model}{f' on {data}' if data else ''}: {split}{by}"


def _compare_with_headers(model: EvaluatedModel) -> HeaderComparison | None:
    """Return the model beside the header-only control, which knows files, not scans or patients."""
    if model.unit != "slice":
        return None
    votes = model.header_votes if len(model.samples.classes) == 2 else None  # else tumours of all kinds are one class
    return compare_with_headers(model.manifest, model.labelled["sample_id"], model.samples, votes)


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
    from brainscale.evaluation.gallery import choose_cases  # here: it needs torch

    shown = model.show_burned_in
    return choose_cases(model.bundle, model.rows, model.labelled, model.samples, show_burned_in=shown)


def _measure_faithfulness(model: EvaluatedModel) -> FaithfulnessSummary | None:
    """Return how faithful heatmaps of this model are."""
    from brainscale.evaluation.heatmap_quality import measure_faithfulness  # here: it needs torch

    return measure_faithfulness(model.bundle, model.rows, model.labelled)


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
