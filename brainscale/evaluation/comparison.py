"""Several runs in one table: the published columns, one row for each model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainscale.dataset.header_control import ControlVotes, header_votes
from brainscale.dataset.manifest import read_manifest
from brainscale.errors import BundleError, ManifestError, UsageError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.models.model_card import escape_markdown
from brainscale.schema import COMPARISON, PUBLISHED
from brainscale.stats import metrics
from brainscale.stats.paired_tests import paired_tests
from brainscale.storage.local import read_success

HEADINGS = dict(
    zip(PUBLISHED, ("Accuracy", "AUC", "Sensitivity", "Specificity", "Avg Precision", "Avg Recall"), strict=True)
)
"""Metric → heading of the published table."""
RUN = ("config.yaml", "*.json", "manifest.parquet", "history.parquet", "model/*", "evaluation/*")
READ = (*RUN, "metrics.parquet", "predictions.parquet")
"""What is read of a run or an evaluation in an object store."""
COSTS = ("parameters", "flops", "images_per_second")
FACTS = ("model", "run", "samples_sha256", "classes", "threshold", "weights_sha256", *COSTS)
"""What a comparison needs to know of an evaluation, besides its figures."""
CONTROL = "header-only control"
"""Tells a tumour by file size, width, height and pixel mode alone: a model that is no better learnt a shortcut."""


def ready(runs: Sequence[str]) -> bool:
    """Whether every run has its evaluation, so that no Ray is needed.

    Raises:
        UsageError: two arguments mean the same folder.
        BundleError: a folder is neither a run nor an evaluation.
    """
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UsageError("the same run is named twice: name each once")
    for run in runs:
        if evaluated(Path(run)) is None and not (Path(run) / "config.yaml").is_file():
            raise BundleError(f"{run} is neither a run nor an evaluation: name what train or evaluate wrote")
    return all(evaluated(Path(run)) is not None for run in runs)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        table: of schema COMPARISON, a row for each run and one for the control.
        pairs: of schema PAIRS; None where nothing can be paired.
        same: whether all runs were evaluated on the same samples; figures on different ones do not compare.
    """

    table: pa.Table
    pairs: pa.Table | None
    same: bool


def compare_runs(runs: Sequence[str]) -> Comparison:
    """Runs side by side, from their evaluations on the test side; made first where there is none.

    Needs a connected Ray unless the runs are `ready`. The header-only control is judged on the samples of the first
    run, and takes part in the paired tests.

    Args:
        runs: run folders, or folders that `evaluate` wrote.

    Raises:
        BrainscaleError: as `ready` and `evaluate` do.
    """
    ready(runs)
    folders = {run: evaluated(Path(run)) or Path(evaluate_model(run)["out"]) for run in runs}
    facts = {run: _facts(folder) for run, folder in folders.items()}
    same = len({(known["samples_sha256"], known["classes"]) for known in facts.values()}) == 1
    first = runs[0]
    classes = json.loads(facts[first]["classes"])
    judged = _used(folders[first])
    control = _control(read_manifest(folders[first] / "manifest.parquet"), judged, classes)
    rows = [_row(folder, facts[run]) for run, folder in folders.items()]
    if control is not None:
        rows.append(_control_row(control, facts[first]["run"], classes))
    tested = _pairs(folders, facts, control) if same else None
    return Comparison(table=pa.Table.from_pylist(rows, schema=COMPARISON), pairs=tested, same=same)


def _control(manifest: pa.Table, judged: pa.Table, classes: Sequence[str]) -> ControlVotes | None:
    """The control's votes on the samples that the models were judged on, where there are enough groups for one."""
    try:
        votes = header_votes(manifest, {name: i for i, name in enumerate(classes)})
    except ManifestError:
        return None
    return votes.of(judged["sample_id"].to_pylist())


def _control_row(votes: ControlVotes, run: str, classes: Sequence[str]) -> dict[str, Any]:
    rows = metrics.compute_metrics(votes.labels, votes.probabilities, classes, groups=votes.codes).to_pylist()
    return {**_figures(rows), "model": CONTROL, "run": run}


def _pairs(
    folders: Mapping[str, Path], facts: Mapping[str, Mapping[str, str]], control: ControlVotes | None
) -> pa.Table | None:
    """Paired tests on the samples that all could read, Holm-corrected; None where there is no pair."""
    tables = {run: _used(folder) for run, folder in folders.items()}
    shared = pa.array(sorted(set.intersection(*(set(table["sample_id"].to_pylist()) for table in tables.values()))))
    tables = {run: table.filter(pc.is_in(table["sample_id"], shared)) for run, table in tables.items()}
    first = next(iter(folders))
    classes, ids = json.loads(facts[first]["classes"]), tables[first]["sample_id"].to_pylist()
    labels = np.array([classes.index(label) for label in tables[first]["label"].to_pylist()], np.int64)
    chances = {run: np.array(table["probabilities"].to_pylist(), np.float64) for run, table in tables.items()}
    thresholds = {run: float(known["threshold"]) for run, known in facts.items()}
    if control is not None:
        chances[CONTROL], thresholds[CONTROL] = control.of(ids).probabilities, 0.5
    if len(chances) < 2:
        return None
    samples = pq.read_table(folders[first] / "manifest.parquet", columns=["sample_id", "group"])
    group = dict(zip(samples["sample_id"].to_pylist(), samples["group"].to_pylist(), strict=True))
    return paired_tests(chances, labels, thresholds, [group[sample_id] for sample_id in ids])


def _used(folder: Path) -> pa.Table:
    """The evaluation's predictions that count, sorted by sample_id."""
    table = pq.read_table(folder / "predictions.parquet", columns=["sample_id", "label", "probabilities"])
    return table.filter(pc.and_(pc.is_valid(table["label"]), pc.is_valid(table["probabilities"]))).sort_by("sample_id")


def evaluated(run: Path) -> Path | None:
    """The complete evaluation that a folder is or has, if any."""
    places = (run, run / "evaluation" / "test")
    return next((p for p in places if (p / "metrics.parquet").is_file() and read_success(p) is not None), None)


def _row(folder: Path, facts: Mapping[str, str]) -> dict[str, Any]:
    return {
        **_figures(pq.read_table(folder / "metrics.parquet").to_pylist()),
        "model": facts["model"],
        "run": facts["run"],
        "parameters": int(facts["parameters"]),
        "flops": int(facts["flops"]),
        "images_per_second": float(facts["images_per_second"]),
        "weights_sha256": facts["weights_sha256"],
    }


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The published columns of a table of figures, and n."""
    figures = {row["metric"]: row for row in rows if row["metric"] in PUBLISHED}
    named = (("", "value"), ("_low", "low"), ("_high", "high"))
    columns = {f"{name}{end}": row[key] for name, row in figures.items() for end, key in named}
    return {**columns, "n": figures["accuracy"]["n"]}


def _facts(folder: Path) -> dict[str, str]:
    """What an evaluation says of itself beside its figures.

    Raises:
        BundleError: it lacks some of it, as an older version's does.
    """
    metadata = pq.read_schema(folder / "metrics.parquet").metadata or {}
    facts = {key.decode(): value.decode() for key, value in metadata.items()}
    lacking = [name for name in FACTS if name not in facts]
    if lacking or not (folder / "manifest.parquet").is_file():
        what = lacking[0] if lacking else "what it was made on"
        raise BundleError(f"{folder} does not say {what}: an older version wrote it; evaluate that model again")
    return facts


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
