"""A comparison as text for a terminal, as Markdown and as LaTeX."""

from collections.abc import Callable, Collection, Mapping, Sequence
from textwrap import fill
from typing import Any, Literal

import pyarrow as pa

from brainscale.formatting import escape_latex, escape_markdown
from brainscale.models.bundle import EDITED
from brainscale.schema import PUBLISHED, PUBLISHED_MULTICLASS
from brainscale.stats.metric_names import MULTICLASS_NOTE, PUBLISHED_NOTE, metric_name

WIDTH, NAME_WIDTH = 80, 28
"""Columns of a terminal, and of a model's name in it."""
COST_HEADINGS = ("Test samples", "Parameters", "GFLOP", "Images/s")
Form = Literal["text", "markdown", "latex"]
"""Text for a terminal, or a table in one of two markup languages."""
SHARED_ONLY = "These tests take only the samples that all of them have."
PAIR_HEADINGS = (
    "A",
    "B",
    "{auroc} A − B",
    "95 % interval",
    "p (DeLong, Holm)",
    "only A correct",
    "only B correct",
    "p (McNemar, Holm)",
)

ESCAPES: Mapping[Form, Callable[[object], str]] = {"markdown": escape_markdown, "latex": escape_latex}


def format_comparison(table: pa.Table, *, form: Form = "text") -> str:
    """Return a table of schema COMPARISON as text, each metric with its 95 % interval.

    The first lines say if the models cannot be compared, and which of them are degenerate or were edited.

    Args:
        table: a row for each model.
        form: text or a markup language.
    """
    models = list(zip(_names(table), table.to_pylist(), strict=True))
    marks = _marks(models)
    metrics, notes = _metrics_and_notes(table)
    headings = [metric_name(metric).name for metric in metrics]
    if form != "text":
        heading = ["Model", *(f"{heading} (95 % CI)" for heading in headings), *COST_HEADINGS]
        lines = [
            [name, *(f"{_number(row[metric])} {_interval(row, metric)}".strip() for metric in metrics), *_costs(row)]
            for name, row in models
        ]
        shown = [*map(ESCAPES[form], marks), _in_markup([heading, *lines], form)]
        return "\n\n".join([*shown, *(notes if form == "markdown" else map(escape_latex, notes))])
    lines = [["Model", *headings, *COST_HEADINGS]]
    for name, row in models:
        lines.append([name, *(_number(row[metric]) for metric in metrics), *_costs(row)])
        lines.append(["", *(_interval(row, metric) for metric in metrics), *[""] * len(COST_HEADINGS)])
    marks, notes = ([fill(text, WIDTH) for text in texts] for texts in (marks, notes))
    return "\n\n".join([*marks, _in_blocks(lines, 1), *notes])


def _marks(models: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return what a reader must know before the figures, a sentence each."""
    marks = [reason] if (reason := models[0][1]["not_comparable"]) else []
    unit, matched_on = models[0][1]["unit"], models[0][1]["matched_on"]
    marks += [f"Only pairs of samples matched by {matched_on} count."] if matched_on else []
    marks += [] if unit == "slice" else [f"Metrics and numbers of samples are those of {unit}s."]
    marks += [f"{name}: {row['degenerate']}" for name, row in models if row["degenerate"]]
    return marks + [f"{name}: {EDITED}." for name, row in models if row["model_edited"]]


def format_pairs(table: pa.Table, *, classes: int = 2, form: Form = "text") -> str:
    """Return a table of schema PAIRS as text.

    Args:
        table: a row for each pair of models.
        classes: number of classes of the models; with more than two, the AUROCs are those of any tumour against none.
        form: text or a markup language.
    """
    rows = table.to_pylist()
    auroc = metric_name("auroc" if classes == 2 else "tumour_auroc").name
    lines = [[heading.format(auroc=auroc) for heading in PAIR_HEADINGS]]
    for row in rows:
        interval = "–" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        counts = [str(row["only_a"]), str(row["only_b"])]
        tests = [_number(row["difference"]), interval, _number(row["p_holm"])]
        lines.append([row["a"], row["b"], *tests, *counts, _number(row["mcnemar_p_holm"])])
    text = _in_blocks(lines, 2) if form == "text" else _in_markup(lines, form)
    reason = f"{rows[0]['not_comparable']} {SHARED_ONLY}" if rows[0]["not_comparable"] else None
    return "\n\n".join(
        filter(None, [reason and (fill(reason, WIDTH) if form == "text" else ESCAPES[form](reason)), text])
    )


def _metrics_and_notes(table: pa.Table) -> tuple[list[str], list[str]]:
    """Return the published metrics of models with as many classes as these have, and the footnotes of their table."""
    numbers = set(table["classes"].to_pylist())
    metrics = [*(PUBLISHED if 2 in numbers else ()), *(PUBLISHED_MULTICLASS if numbers - {2} else ())]
    return list(dict.fromkeys(metrics)), [PUBLISHED_NOTE, *([MULTICLASS_NOTE] if numbers - {2} else ())]


def _names(table: pa.Table) -> list[str]:
    """Return the name of each row: its model, and its run where several rows have one model."""
    models = table["model"].to_pylist()
    runs = zip(models, table["run"].to_pylist(), strict=True)
    return [f"{model} ({run})" if models.count(model) > 1 else model for model, run in runs]


def _in_markup(lines: Sequence[Sequence[str]], form: Form) -> str:
    """Return cells as a table, the first line its heading; names come from folders, and are no markup."""
    heading, *rows = lines
    escaped = [[ESCAPES[form](cell) for cell in row] for row in rows]
    if form == "markdown":
        rule = ["---", *["---:"] * (len(heading) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [heading, rule, *escaped])
    body = [f"{' & '.join(line)} \\\\" for line in [list(map(escape_latex, heading)), *escaped]]
    begin = f"\\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}"
    return "\n".join([begin, "\\hline", body[0], "\\hline", *body[1:], "\\hline", "\\end{tabular}"])


def _costs(row: Mapping[str, Any]) -> list[str]:
    gflop = None if row["flops"] is None else row["flops"] / 1e9
    rates = [gflop, row["images_per_second"]]
    return [_number(row["n"]), _number(row["parameters"]), *("–" if rate is None else f"{rate:.1f}" for rate in rates)]


def _interval(row: Mapping[str, Any], metric: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return "" if low is None else f"({low:.3f}–{high:.3f})"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _in_blocks(lines: Sequence[Sequence[str]], names: int) -> str:
    """Return cells in tables below each other that a terminal has room for, each with the names in its first columns.

    Args:
        lines: the cells, headings first.
        names: number of columns that hold names, which are shortened where they are too long.
    """
    short = _shorten({name for line in lines for name in line[:names]})
    cells = [[*(short[name] for name in line[:names]), *line[names:]] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    blocks: list[list[int]] = []
    for column in range(names, len(widths)):
        block = [*range(names), *(blocks[-1] if blocks else []), column]
        if not blocks or sum(widths[i] + 2 for i in block) - 2 > WIDTH:
            blocks.append([])
        blocks[-1].append(column)
    tables = ([[line[i] for i in (*range(names), *block)] for line in cells] for block in blocks)
    return "\n\n".join(_aligned(_drop_empty(table)) for table in tables)


def _drop_empty(lines: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """Return the lines that have a cell with text."""
    return [line for line in lines if any(line)]


def _shorten(names: Collection[str]) -> dict[str, str]:
    """Return name → a name that fits: without its beginning, else without its middle, else with a number."""
    for head in (0, NAME_WIDTH // 2):
        tail = NAME_WIDTH - 1 - head
        short = {name: name if len(name) <= NAME_WIDTH else f"{name[:head]}…{name[-tail:]}" for name in names}
        if len(set(short.values())) == len(names):
            return short
    for number, name in enumerate(sorted(name for name in names if short[name] != name), 1):
        short[name] = f"{number}: …{name[6 - NAME_WIDTH :]}"
    return short


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return cells in columns, the first aligned left, with a rule below the headings."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    heading, *rows = lines
    padded = (
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in [heading, ["-" * width for width in widths], *rows]
    )
    return "\n".join("  ".join(line).rstrip() for line in padded)
