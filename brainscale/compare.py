"""Several runs in one table: the published columns, one row for each model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brainscale.audit import header_control
from brainscale.errors import BundleError, UsageError
from brainscale.evaluate import evaluate
from brainscale.files import read_success
from brainscale.manifest import read_manifest
from brainscale.pairs import compare_pairs
from brainscale.schema import COMPARISON, PUBLISHED

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


def compare(runs: Sequence[str]) -> pa.Table:
    """One row for each run, from its evaluation on the test side; made first where there is none.

    Needs a connected Ray unless the runs are `ready`. A last row is the header-only control of the first run's
    manifest, where there is one.

    Args:
        runs: run folders, or folders that `evaluate` wrote.

    Raises:
        BrainscaleError: as `ready` and `evaluate` do.
    """
    ready(runs)
    rows = [_row(Path(run)) for run in runs]
    first = next((Path(run) for run in runs if (Path(run) / "manifest.parquet").is_file()), None)
    control = None if first is None else _control(first)
    return pa.Table.from_pylist([*rows, *([control] if control else [])], schema=COMPARISON)


def _control(run: Path) -> dict[str, Any] | None:
    """The control's row, where a run's manifest has enough groups for one."""
    folder = evaluated(run)
    without = None if folder is None else json.loads(_facts(folder)["classes"])[0]
    found = header_control(read_manifest(run / "manifest.parquet"), without) if without else {}
    if found.get("auroc") is None:
        return None
    interval = {"auroc": found["auroc"], "auroc_low": found["low"], "auroc_high": found["high"]}
    return {"model": CONTROL, "run": run.name, **interval, "n": found["n"]}


def pairs(runs: Sequence[str]) -> pa.Table | None:
    """Paired tests between models on the same samples, Holm-corrected; None where there is no pair."""
    folders = {run: evaluated(Path(run)) for run in runs}
    known = {run: folder for run, folder in folders.items() if folder is not None}
    if len(known) < 2 or not same_samples(runs):
        return None
    tables = {run: _used(folder) for run, folder in known.items()}
    shared = set.intersection(*(set(table["sample_id"].to_pylist()) for table in tables.values()))
    tables = {
        run: table.filter(pc.is_in(table["sample_id"], pa.array(sorted(shared)))).sort_by("sample_id")
        for run, table in tables.items()
    }
    first = next(iter(tables.values()))
    classes = json.loads(_facts(next(iter(known.values())))["classes"])
    labels = np.array([classes.index(label) for label in first["label"].to_pylist()], np.int64)
    chances = {_name(run): np.array(table["probabilities"].to_pylist(), np.float64) for run, table in tables.items()}
    thresholds = {_name(run): float(_facts(folder)["threshold"]) for run, folder in known.items()}
    return compare_pairs(chances, labels, thresholds, _groups(runs, first["sample_id"].to_pylist()))


def _groups(runs: Sequence[str], sample_ids: Sequence[str]) -> list[str | None] | None:
    """Groups of the samples, as the first run's manifest has them."""
    for run in runs:
        path = Path(run) / "manifest.parquet"
        if path.is_file():
            table = pq.read_table(path, columns=["sample_id", "group"])
            group = dict(zip(table["sample_id"].to_pylist(), table["group"].to_pylist(), strict=True))
            return [group.get(sample_id) for sample_id in sample_ids]
    return None


def _name(run: str) -> str:
    return str(Path(run))


def _used(folder: Path) -> pa.Table:
    table = pq.read_table(folder / "predictions.parquet", columns=["sample_id", "label", "probabilities"])
    return table.filter(pc.and_(pc.is_valid(table["label"]), pc.is_valid(table["probabilities"])))


def evaluated(run: Path) -> Path | None:
    """The complete evaluation that a folder is or has, if any."""
    places = (run, run / "evaluation" / "test")
    return next((p for p in places if (p / "metrics.parquet").is_file() and read_success(p) is not None), None)


def same_samples(runs: Sequence[str]) -> bool:
    """Whether all runs were evaluated on the same samples; figures on different ones do not compare."""
    folders = [evaluated(Path(run)) for run in runs]
    return len({_facts(folder)["samples_sha256"] for folder in folders if folder is not None}) == 1


def _row(run: Path) -> dict[str, Any]:
    folder = evaluated(run)
    if folder is None:
        folder = Path(evaluate(str(run))["out"])
    facts = _facts(folder)
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    figures = {row["metric"]: row for row in rows if row["metric"] in PUBLISHED}
    named = (("", "value"), ("_low", "low"), ("_high", "high"))
    return {
        **{f"{name}{end}": row[key] for name, row in figures.items() for end, key in named},
        "model": facts["model"],
        "run": facts["run"],
        "n": figures["accuracy"]["n"],
        "parameters": int(facts["parameters"]),
        "flops": int(facts["flops"]),
        "images_per_second": float(facts["images_per_second"]),
        "weights_sha256": facts["weights_sha256"],
    }


def _facts(folder: Path) -> dict[str, str]:
    """What an evaluation says of itself beside its figures.

    Raises:
        BundleError: it lacks some of it, as an older version's does.
    """
    metadata = pq.read_schema(folder / "metrics.parquet").metadata or {}
    facts = {key.decode(): value.decode() for key, value in metadata.items()}
    if lacking := [name for name in FACTS if name not in facts]:
        raise BundleError(f"{folder} does not say {lacking[0]}: an older version wrote it; evaluate that model again")
    return facts


def as_text(table: pa.Table) -> str:
    """The table for a terminal, the published columns first, with 95 % intervals below the figures."""
    lines = [["Model", *HEADINGS.values(), "Test samples", "Parameters", "GFLOP", "Images/s"]]
    for row in table.to_pylist():
        lines.append([row["model"], *(_number(row[name]) for name in PUBLISHED), *_costs(row)])
        lines.append(["", *(_range(row, name) for name in PUBLISHED), *[""] * 4])
    return _aligned(lines)


def as_markdown(table: pa.Table) -> str:
    """The same as a Markdown table, each interval behind its figure."""
    heading = ["Model", *(f"{heading} (95 % CI)" for heading in HEADINGS.values())]
    lines = [[*heading, "Test samples", "Parameters", "GFLOP", "Images/s"]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row in table.to_pylist():
        figures = (f"{_number(row[name])} {_range(row, name)}".strip() for name in PUBLISHED)
        lines.append([row["model"], *figures, *_costs(row)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pairs_as_text(table: pa.Table) -> str:
    """Paired tests for a terminal."""
    lines = [
        ["A", "B", "AUC A − B", "95 % interval", "p (DeLong, Holm)", "only A right", "only B", "p (McNemar, Holm)"]
    ]
    for row in table.to_pylist():
        between = "–" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        counts = [str(row["only_a"]), str(row["only_b"])]
        tests = [_number(row["difference"]), between, _number(row["p_holm"])]
        lines.append([row["a"], row["b"], *tests, *counts, _number(row["mcnemar_p_holm"])])
    return _aligned(lines)


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
