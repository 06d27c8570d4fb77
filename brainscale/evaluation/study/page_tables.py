"""The tables of a page of results, made from the table of results and the study file alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from brainscale.evaluation.study.divisions import AS_PRINTED, CONDITIONS, HONEST, LEAK_FREE
from brainscale.evaluation.study.results_table import Line, Results
from brainscale.evaluation.study.sections import Part
from brainscale.evaluation.study.subsets import ALL, MATCHED, SIZES
from brainscale.formatting import escape_markdown, format_number
from brainscale.schema import PUBLISHED
from brainscale.stats.metric_names import metric_name

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


def rows_table(results: Results, name: str, part: Part, subset: str) -> TableView | None:
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


def leak_table(results: Results, name: str, part: Part, subset: str) -> TableView | None:
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
            copies = _by_condition(results, name, row, "tested_with_copy_in_training", 1)
            learnt = _by_condition(results, name, row, "training_samples", 0)
            lines.append(
                [escape_markdown(title_of(part, row)), metric_name(metric).name, *cells, *worth, copies, learnt]
            )
    names = [CONDITION_TITLES[condition] for condition in CONDITIONS]
    worths = ("Printed − leak-free", "Honest − leak-free", "Printed − honest")
    headings = ("Row", "Metric", *names, *worths, "Test images with a copy in training", "Images to learn from")
    return TableView(headings=headings, lines=lines) if lines else None


def _by_condition(results: Results, name: str, row: str, fact: str, digits: int) -> str:
    """Return a fact of a row under the three protocols, in one cell."""
    return " / ".join(format_number(results.number(name, row, condition, fact), digits) for condition in CONDITIONS)


def differences_table(results: Results, name: str, part: Part) -> TableView | None:
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


def matched_table(results: Results, name: str, part: Part) -> TableView | None:
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


def sizes_table(results: Results, name: str, part: Part) -> TableView | None:
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


def published_table(results: Results, name: str, part: Part) -> TableView | None:
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
