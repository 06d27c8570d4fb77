"""The page of results, made from the table and the study files alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import pyarrow as pa

from brainscale.evaluation.baselines.runner import LEARNS_NOTHING
from brainscale.evaluation.study.divisions import TEST_SHARE
from brainscale.evaluation.study.files import StudyFile
from brainscale.evaluation.study.page_tables import (
    TableView,
    conditions_of,
    differences_table,
    leak_table,
    matched_table,
    published_table,
    rows_table,
    sizes_table,
    title_of,
)
from brainscale.evaluation.study.results_table import Results
from brainscale.evaluation.study.sections import Part
from brainscale.evaluation.study.subsets import ALL, WITHOUT_DOUBTFUL
from brainscale.formatting import escape_markdown, format_number
from brainscale.stats.bootstrap import RESAMPLES
from brainscale.stats.metric_names import PUBLISHED_NOTE
from brainscale.stats.repeated_folds import REDRAWN


@dataclass(frozen=True, kw_only=True)
class PartView:
    """A part for the page.

    Attributes:
        name: its name.
        title: its heading.
        text: what it shows.
        kind: as in the study file.
        missing: one sentence that says what is not complete; None where all is.
        table: its rows, or None where nothing is complete.
        differences: paired differences, or None.
        doubtful: the same without samples with a doubtful label, or None.
        matched: AUROC beside that of columns alone, on all samples and in matched pairs, or None.
        sizes: sensitivity by size of the tumour, or None.
        published: published figures beside those here, or None.
        notes: sentences about rows.
        plot: file name of the plot, or None.
    """

    name: str
    title: str
    text: str
    kind: str
    missing: str | None
    table: TableView | None
    differences: TableView | None
    doubtful: TableView | None
    matched: TableView | None
    sizes: TableView | None
    published: TableView | None
    notes: Sequence[str]
    plot: str | None


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """A study for the page."""

    file: StudyFile
    data: TableView | None
    parts: Sequence[PartView]
    models: int
    planned: int
    hours: float
    cpu_hours: float
    configurations: frozenset[tuple[str, str | None]]
    hardware: Sequence[str]
    seeds: Sequence[int]


def render_page(
    table: pa.Table, files: Sequence[StudyFile], *, table_file: str, models_file: str, images: str, command: str
) -> str:
    """Return the page as Markdown: the same table and study files give the same text.

    Args:
        table: a table of schema RESULTS.
        files: the studies, in order.
        table_file: path from the page to the table.
        models_file: path from the page to the released models.
        images: path from the page to the folder of its plots.
        command: command that makes the page.
    """
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML: names are escaped where cells are made
        loader=jinja2.PackageLoader("brainscale", "evaluation/study"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    views = [view_study(Results(table, file)) for file in files]
    return environment.get_template("results.md.j2").render(
        studies=views,
        data_sets={name: section for file in files for name, section in file.study.data.items()},
        seeds=sorted({seed for view in views for seed in view.seeds}),
        configurations=len(frozenset().union(*(view.configurations for view in views))),
        hardware=sorted({text for view in views for text in view.hardware}),
        table_file=table_file,
        models_file=models_file,
        images=images,
        command=command,
        published_note=PUBLISHED_NOTE,
        resamples=f"{RESAMPLES:,}",
        redrawn=REDRAWN,
        test_share=f"{100 * TEST_SHARE:g}",
        number=format_number,
    )


def view_study(results: Results) -> StudyView:
    """Return a study for the page."""
    study = results.file.study
    planned = _count_planned(results)
    seeds = {seed for line in results.facts("models") for seed in line["seeds"] or ()}
    return StudyView(
        file=results.file,
        data=_data_table(results),
        parts=[_view_part(results, name, part) for name, part in study.parts.items()],
        models=sum(len(line["seeds"] or ()) for line in results.facts("models")),
        planned=planned,
        hours=sum(line["value"] for line in results.facts("hours")),
        cpu_hours=sum(line["value"] for line in results.facts("cpu_hours")),
        configurations=_list_configurations(results),
        hardware=sorted({line["text"] for line in results.facts("hardware")}),
        seeds=sorted(seeds),
    )


def _list_configurations(results: Results) -> frozenset[tuple[str, str | None]]:
    """Return hash of the configuration and name of the baseline of each row that has models."""
    parts = results.file.study.parts
    lines = [line for line in results.facts("models") if line["config_sha256"]]
    return frozenset((line["config_sha256"], parts[line["part"]].rows[line["row"]].baseline) for line in lines)


def _count_planned(results: Results) -> int:
    """Return the number of models that the rows will have, without averages and models of others."""
    rows = {name: part.rows for name, part in results.file.study.parts.items()}
    lines = [(line, rows[line["part"]][line["row"]]) for line in results.facts("models_planned")]
    return sum(int(line["value"]) for line, row in lines if not row.average and row.baseline not in LEARNS_NOTHING)


def _data_table(results: Results) -> TableView | None:
    lines = []
    for name, section in results.file.study.data.items():
        facts = results.facts_of_data(name)
        if facts:
            labels = [f"{round(facts[key])} {key.removeprefix('label:')}" for key in facts if key.startswith("label:")]
            counts = ("files", "distinct_files", "groups", "patients", "left_out", "errors", "doubtful")
            cells = [format_number(round(facts[count])) for count in counts]
            lines.append([escape_markdown(section.title), escape_markdown(", ".join(labels)), *cells])
    headings = ("Data", "Labels", "Images", "Distinct files", "Groups", "Patients known", "Left out", "Errors")
    return TableView(headings=(*headings, "Doubtful labels"), lines=lines) if lines else None


def plot_of(results: Results, name: str, part: Part) -> str | None:
    """Return the file name of a part's plot, or None where it has nothing to show."""
    measured = [key for key in conditions_of(part) if results.metric(name, *key, "auroc") is not None]
    return f"{results.file.name}-{name}.svg" if measured else None


def _view_part(results: Results, name: str, part: Part) -> PartView:
    make = leak_table if part.kind == "leak" else rows_table
    table = make(results, name, part, ALL)
    doubtful = None
    if table is not None and results.has_subset(name, WITHOUT_DOUBTFUL):
        doubtful = make(results, name, part, WITHOUT_DOUBTFUL)
    return PartView(
        name=name,
        title=part.title,
        text=part.text,
        kind=part.kind,
        missing=_missing(results, name, part),
        table=table,
        differences=differences_table(results, name, part),
        doubtful=doubtful,
        matched=matched_table(results, name, part),
        sizes=sizes_table(results, name, part),
        published=published_table(results, name, part) if table is not None else None,
        notes=[f"{escape_markdown(title_of(part, row))}: {each.note}" for row, each in part.rows.items() if each.note],
        plot=plot_of(results, name, part),
    )


def _missing(results: Results, name: str, part: Part) -> str | None:
    """Return one sentence that says what of a part is not complete."""
    left, planned, complete = list[str](), 0, 0
    for row, condition in conditions_of(part):
        all_models = results.number(name, row, condition, "models_planned")
        if all_models is None:
            return "Nothing of this part has been computed yet."
        done = results.number(name, row, condition, "models") or 0
        planned += 0 if part.rows[row].average else round(all_models)
        complete += round(done)
        if done < all_models:
            title = escape_markdown(title_of(part, row, condition))
            left.append(f"{title} ({round(all_models - done)} of {round(all_models)} missing)")
    if not left:
        return None
    if not complete:
        return f"No row of this part is complete; it has {planned} models."
    return f"Not complete, of {planned} models: {'; '.join(left)}."
