"""The page of results, made from the table and the study files alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jinja2
import pyarrow as pa

from brainscale.evaluation.study.divisions import AS_PRINTED, CONDITIONS, HONEST, LEAK_FREE, TEST_SHARE
from brainscale.evaluation.study.files import StudyFile
from brainscale.evaluation.study.results_table import Line, Results
from brainscale.evaluation.study.sections import Part
from brainscale.evaluation.study.subsets import ALL, MATCHED, SIZES, WITHOUT_DOUBTFUL
from brainscale.formatting import escape_markdown, format_number
from brainscale.schema import PUBLISHED
from brainscale.stats.bootstrap import RESAMPLES
from brainscale.stats.metric_names import PUBLISHED_NOTE, metric_name
from brainscale.stats.repeated_folds import REDRAWN

CONDITION_TITLES = {AS_PRINTED: "As printed", HONEST: "Honest choice", LEAK_FREE: "Leak-free", "": ""}
COMPARED = ("accuracy", "auroc")
"""Metrics whose differences are on the page; the table has those of all."""
LEAST_P = 0.001


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table for the page.

    Attributes:
        headings: names of the columns.
        lines: cells of each line, as Markdown.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[str]]


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
    configurations: int
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
        configurations=len({line["config_sha256"] for line in results.facts("models") if line["config_sha256"]}),
        hardware=sorted({line["text"] for line in results.facts("hardware")}),
        seeds=sorted(seeds),
    )


def _count_planned(results: Results) -> int:
    """Return the number of models that the rows will have, without averages."""
    rows = {name: part.rows for name, part in results.file.study.parts.items()}
    lines = results.facts("models_planned")
    return sum(int(line["value"]) for line in lines if not rows[line["part"]][line["row"]].average)


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


def conditions_of(part: Part) -> list[tuple[str, str]]:
    """Return the rows of a part under each of its conditions."""
    conditions = {"leak": CONDITIONS, "learning_curve": tuple(f"{share:g}" for share in part.shares)}
    return [(row, condition) for row in part.rows for condition in conditions.get(part.kind, ("",))]


def title_of(part: Part, row: str, condition: str = "") -> str:
    """Return the name of a row under a condition."""
    title = part.rows[row].title or row
    if part.kind == "learning_curve" and condition:
        return f"{title}, {100 * float(condition):g} % of the training data"
    return f"{title}, {CONDITION_TITLES[condition].lower()}" if condition else title


def _view_part(results: Results, name: str, part: Part) -> PartView:
    make = {"leak": _leak_table, "learning_curve": _rows_table}.get(part.kind, _rows_table)
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
        differences=_differences_table(results, name, part),
        doubtful=doubtful,
        matched=_matched_table(results, name, part),
        sizes=_sizes_table(results, name, part),
        published=_published_table(results, name, part) if table is not None else None,
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


def _rows_table(results: Results, name: str, part: Part, subset: str) -> TableView | None:
    """Return the published metrics of each row, and its costs for the whole set."""
    metrics = (*PUBLISHED, "average_precision") if subset == ALL else COMPARED
    lines = []
    for row, condition in conditions_of(part):
        if results.metric(name, row, condition, "accuracy", subset) is None:
            continue
        cells = [cell(results.metric(name, row, condition, metric, subset)) for metric in metrics]
        costs = _costs(results, name, row, condition) if subset == ALL else ()
        lines.append([escape_markdown(title_of(part, row, condition)), *cells, *costs])
    names = [metric_name(metric).name for metric in metrics]
    cost_names = ("Images to learn from", "Parameters", "GFLOP", "Minutes a model", "Models") if subset == ALL else ()
    return TableView(headings=("Row", *names, *cost_names), lines=lines) if lines else None


def _costs(results: Results, name: str, row: str, condition: str) -> Iterator[str]:
    for fact, digits in (("training_samples", 0), ("parameters", 0), ("gflop", 2), ("minutes_of_a_model", 1)):
        value = results.number(name, row, condition, fact)
        yield format_number(None if value is None else round(value) if not digits else value, digits)
    models = results.metric(name, row, condition, "accuracy")
    yield "–" if models is None else format_number(models["models"])


def _leak_table(results: Results, name: str, part: Part, subset: str) -> TableView | None:
    """Return one line for each row and metric: the three protocols, and what each leak is worth."""
    lines = []
    for row in part.rows:
        for metric in COMPARED:
            cells = [cell(results.metric(name, row, condition, metric, subset)) for condition in CONDITIONS]
            if cells == ["–"] * len(CONDITIONS):
                continue
            worth = [
                signed_cell(results.difference(name, row, one, metric, other, subset))
                for one, other in ((AS_PRINTED, LEAK_FREE), (HONEST, LEAK_FREE), (AS_PRINTED, HONEST))
            ]
            copies = [results.number(name, row, condition, "tested_with_copy_in_training") for condition in CONDITIONS]
            shown = " / ".join(format_number(count, 1) for count in copies)
            lines.append([escape_markdown(title_of(part, row)), metric_name(metric).name, *cells, *worth, shown])
    names = [CONDITION_TITLES[condition] for condition in CONDITIONS]
    worths = ("Printed − leak-free", "Honest − leak-free", "Printed − honest")
    headings = ("Row", "Metric", *names, *worths, "Test images with a copy in training")
    return TableView(headings=headings, lines=lines) if lines else None


def _differences_table(results: Results, name: str, part: Part) -> TableView | None:
    """Return the paired differences to the reference."""
    if part.kind == "leak" or part.reference is None:
        return None
    lines = []
    for row, condition in conditions_of(part):
        found = [results.difference(name, row, condition, metric, part.reference) for metric in COMPARED]
        if any(found):
            shown = [text for line in found for text in (signed_cell(line), p_cell(line))]
            lines.append([escape_markdown(title_of(part, row, condition)), *shown])
    reference = escape_markdown(title_of(part, part.reference))
    headings = [text for metric in COMPARED for text in (f"{metric_name(metric).name} − {reference}", "p (Holm)")]
    return TableView(headings=("Row", *headings), lines=lines) if lines else None


def _matched_table(results: Results, name: str, part: Part) -> TableView | None:
    """Return AUROCs beside those of the columns alone, on all samples and in matched pairs."""
    reference, lines = " and ".join(part.match), []
    for row, condition in conditions_of(part) if part.match else ():
        cells = []
        for subset in (ALL, MATCHED):
            cells.append(cell(results.metric(name, row, condition, "auroc", subset)))
            cells.append(cell(results.control(name, row, condition, reference, subset)))
            cells.append(signed_cell(results.difference(name, row, condition, "auroc", reference, subset)))
        if set(cells) != {"–"}:
            lines.append([escape_markdown(title_of(part, row, condition)), *cells])
    alone = f"{escape_markdown(reference)} alone"
    headings = [f"{text}, {where}" for where in ("all", "pairs") for text in ("AUROC", alone, "difference")]
    return TableView(headings=("Row", *headings), lines=lines) if lines else None


def _sizes_table(results: Results, name: str, part: Part) -> TableView | None:
    """Return the sensitivity in each third of the tumours by size."""
    lines = []
    for row, condition in conditions_of(part) if part.size is not None else ():
        found = [results.metric(name, row, condition, "sensitivity", size) for size in SIZES]
        if any(found):
            lines.append([escape_markdown(title_of(part, row, condition)), *map(cell, found)])
    if not lines:
        return None
    first = conditions_of(part)[0]
    low, high = (format_number(results.number(name, *first, f"size_bound_{n}"), 0) for n in (1, 2))
    column = escape_markdown(part.size)
    return TableView(headings=("Row", f"{column} ≤ {low}", f"{low} to {high}", f"> {high}"), lines=lines)


def _published_table(results: Results, name: str, part: Part) -> TableView | None:
    """Return the published figures of a part, each beside the one here."""
    lines = []
    for row, section in part.rows.items():
        if not section.published:
            continue
        condition = CONDITIONS[0] if part.kind == "leak" else ""
        for who in ("published", "here"):
            cells = []
            for metric in PUBLISHED:
                measured = results.metric(name, row, condition, metric)
                here = None if measured is None else measured["value"]
                cells.append(format_number(results.published(name, row, metric) if who == "published" else here))
            lines.append([f"{escape_markdown(title_of(part, row))}, {who}", *cells])
    headings = [metric_name(metric).name for metric in PUBLISHED]
    return TableView(headings=("Row", *headings), lines=lines) if lines else None


def cell(line: Line | None) -> str:
    """Return a metric with its interval."""
    if line is None or line["value"] is None:
        return "–"
    value = format_number(line["value"])
    return value if line["low"] is None else f"{value} ({format_number(line['low'])}–{format_number(line['high'])})"


def signed_cell(line: Line | None) -> str:
    """Return a difference with its sign and its interval."""
    if line is None or line["value"] is None:
        return "–"
    value, *ends = (signed(line[name]) for name in ("value", "low", "high"))
    return value if line["low"] is None else f"{value} ({ends[0]} to {ends[1]})"


def signed(value: float | None) -> str:
    """Return a number with its sign."""
    text = format_number(value)
    return f"+{text}" if value is not None and value > 0 else text


def p_cell(line: Line | None) -> str:
    """Return an adjusted p-value."""
    if line is None or line["p_holm"] is None:
        return "–"
    return "< 0.001" if line["p_holm"] < LEAST_P else format_number(line["p_holm"])
