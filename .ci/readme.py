"""Print README.md with the table that docs/results.parquet gives: `PYTHONPATH=. python .ci/readme.py`."""

import sys
from pathlib import Path

from brainscale.evaluation.study.divisions import AS_PRINTED, CONDITIONS, LEAK_FREE
from brainscale.evaluation.study.files import read_study
from brainscale.evaluation.study.page_tables import cell, signed_cell, title_of
from brainscale.evaluation.study.results_table import Results
from brainscale.evaluation.study.subsets import ALL, MATCHED, WITHOUT_DOUBTFUL
from brainscale.formatting import escape_markdown, format_number
from brainscale.storage.tables import read_table

ROOT = Path(__file__).parents[1]
STUDY, PART, FRESH, LEAK = "brain_mri_253", "table", "best", "leak"
GLIOMAS = "lgg_flair"
BEGIN, END = "<!-- table of docs/results.parquet: .ci/readme.py -->\n", "<!-- end of the table -->\n"


def page() -> str:
    """Return README.md with the table that docs/results.parquet gives."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    tables = make_table() + make_fresh_table() + make_leak_table() + make_glioma_table()
    return before + BEGIN + tables + END + rest.partition(END)[2]


def make_table() -> str:
    """Return accuracy and AUROC of each row that has been computed, beside the published ones, in Markdown."""
    results = Results(read_table(ROOT / "docs" / "results.parquet", "results"), read_study(STUDY))
    part = results.file.study.parts[PART]
    lines = [
        "| leak-free, 95 % interval | accuracy | AUROC | parameters | published: accuracy | AUROC |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in part.rows:
        if results.metric(PART, row, "", "accuracy") is None:
            continue
        measured = [cell(results.metric(PART, row, "", name)) for name in ("accuracy", "auroc")]
        parameters = results.number(PART, row, "", "parameters")
        published = [format_number(results.published(PART, row, name)) for name in ("accuracy", "auroc")]
        cells = [*measured, format_number(None if parameters is None else round(parameters)), *published]
        lines.append(f"| {escape_markdown(title_of(part, row))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def make_fresh_table() -> str:
    """Return accuracy and AUROC of each computed row on fresh folds, with and without the doubtful labels."""
    results = Results(read_table(ROOT / "docs" / "results.parquet", "results"), read_study(STUDY))
    part, lines = results.file.study.parts[FRESH], []
    for row in part.rows:
        if results.metric(FRESH, row, "", "accuracy") is not None:
            cells = [
                cell(results.metric(FRESH, row, "", name, subset))
                for subset in (ALL, WITHOUT_DOUBTFUL)
                for name in ("accuracy", "auroc")
            ]
            lines.append(f"| {escape_markdown(title_of(part, row))} | {' | '.join(cells)} |")
    if not lines:
        return ""
    heading = "| on fresh folds, 95 % interval | accuracy | AUROC | accuracy without doubtful labels | AUROC |"
    return "\n".join(["", heading, "|---|---:|---:|---:|---:|", *lines]) + "\n"


def make_leak_table() -> str:
    """Return AUROCs under the published protocol and without its leaks, and the difference, as far as computed."""
    results = Results(read_table(ROOT / "docs" / "results.parquet", "results"), read_study(STUDY))
    part, lines = results.file.study.parts[LEAK], []
    for row in part.rows:
        worth = results.difference(LEAK, row, AS_PRINTED, "auroc", LEAK_FREE)
        if worth is not None:
            cells = [cell(results.metric(LEAK, row, condition, "auroc")) for condition in CONDITIONS]
            lines.append(f"| {escape_markdown(title_of(part, row))} | {' | '.join([*cells, signed_cell(worth)])} |")
    if not lines:
        return ""
    heading = "| what a leak is worth, AUROC | as printed | no test image chooses | leak-free | printed − leak-free |"
    return "\n".join(["", heading, "|---|---:|---:|---:|---:|", *lines]) + "\n"


def make_glioma_table() -> str:
    """Return AUROCs on the gliomas, of the network and of the slice position alone, as far as they are computed."""
    results = Results(read_table(ROOT / "docs" / "results.parquet", "results"), read_study(GLIOMAS))
    lines = []
    for name, part in results.file.study.parts.items():
        for row in part.rows if part.match else ():
            reference = " and ".join(part.match)
            cells = []
            for subset in (ALL, MATCHED):
                cells.append(cell(results.metric(name, row, "", "auroc", subset)))
                cells.append(cell(results.control(name, row, "", reference, subset)))
            if set(cells) != {"–"}:
                title = title_of(part, row) if part.rows[row].baseline else part.title
                lines.append(f"| {escape_markdown(title)} | {' | '.join(cells)} |")
    if not lines:
        return ""
    heading = "| slices of gliomas, AUROC | all | position alone | matched by position | position alone, matched |"
    return "\n".join(["", heading, "|---|---:|---:|---:|---:|", *lines]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
