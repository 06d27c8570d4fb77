"""The comparison as text for a terminal and as Markdown."""

from typing import Any

import pyarrow as pa

from brainscale.formatting import escape_markdown
from brainscale.schema import PUBLISHED

HEADINGS = dict(
    zip(PUBLISHED, ("Accuracy", "AUC", "Sensitivity", "Specificity", "Avg Precision", "Avg Recall"), strict=True)
)
"""Metric → heading of the published table."""


def as_text(table: pa.Table) -> str:
    """The table for a terminal, the published columns first, with 95 % intervals below the figures."""
    lines = [["Model", *HEADINGS.values(), "Test samples", "Parameters", "GFLOP", "Images/s"]]
    for name, row in zip(_models(table), table.to_pylist(), strict=True):
        lines.append([name, *(_number(row[metric]) for metric in PUBLISHED), *_costs(row)])
        lines.append(["", *(_range(row, metric) for metric in PUBLISHED), *[""] * 4])
    return _aligned(lines)


def as_markdown(table: pa.Table) -> str:
    """The same as a Markdown table, each interval behind its figure."""
    heading = ["Model", *(f"{heading} (95 % CI)" for heading in HEADINGS.values())]
    lines = [[*heading, "Test samples", "Parameters", "GFLOP", "Images/s"]]
    for name, row in zip(_models(table), table.to_pylist(), strict=True):
        figures = (f"{_number(row[metric])} {_range(row, metric)}".strip() for metric in PUBLISHED)
        lines.append([name, *figures, *_costs(row)])
    return _marked_down(lines)


def _models(table: pa.Table) -> list[str]:
    """What to call each row: its model, and its run where several are of one model."""
    models = table["model"].to_pylist()
    runs = zip(models, table["run"].to_pylist(), strict=True)
    return [f"{model} ({run})" if models.count(model) > 1 else model for model, run in runs]


def pairs_as_text(table: pa.Table) -> str:
    """Paired tests for a terminal."""
    return _aligned(_tests(table))


def pairs_as_markdown(table: pa.Table) -> str:
    """The same as a Markdown table."""
    return _marked_down(_tests(table))


def _tests(table: pa.Table) -> list[list[str]]:
    lines = [
        ["A", "B", "AUC A − B", "95 % interval", "p (DeLong, Holm)", "only A right", "only B", "p (McNemar, Holm)"]
    ]
    for row in table.to_pylist():
        between = "–" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        counts = [str(row["only_a"]), str(row["only_b"])]
        tests = [_number(row["difference"]), between, _number(row["p_holm"])]
        lines.append([row["a"], row["b"], *tests, *counts, _number(row["mcnemar_p_holm"])])
    return lines


def _marked_down(lines: list[list[str]]) -> str:
    """Cells as a Markdown table, the first line its heading; names come from folders, and are no markup."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    rows = (line if at == 0 else [escape_markdown(cell) for cell in line] for at, line in enumerate(lines))
    return "\n".join(f"| {' | '.join(line)} |" for line in [next(rows), rule, *rows])


def _costs(row: dict[str, Any]) -> list[str]:
    giga = None if row["flops"] is None else row["flops"] / 1e9
    rates = [giga, row["images_per_second"]]
    return [_number(row["n"]), _number(row["parameters"]), *("–" if rate is None else f"{rate:.1f}" for rate in rates)]


def _range(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if low is None else f"({low:.3f}–{high:.3f})"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _aligned(lines: list[list[str]]) -> str:
    """Cells in columns, the first to the left, a rule below the headings."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    )
    return "\n".join("  ".join(row).rstrip() for row in padded)
