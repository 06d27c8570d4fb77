"""Several runs in one table: the published columns, one row for each model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.files import CONFIG_FILE
from brainscale.dataset.header_control import ControlVotes, header_votes
from brainscale.dataset.manifest import MANIFEST_FILE, read_manifest
from brainscale.errors import BundleError, ManifestError, UsageError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.schema import COMPARISON, PUBLISHED
from brainscale.stats import metrics
from brainscale.stats.paired_tests import paired_tests
from brainscale.storage.local import read_success
from brainscale.storage.tables import read_table
from brainscale.training.history import HISTORY_FILE
from brainscale.training.run_folder import RunFolder

RUN = (CONFIG_FILE, "*.json", MANIFEST_FILE, HISTORY_FILE, "model/*", "evaluation/*")
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
        if evaluated(Path(run)) is None and not RunFolder(Path(run)).config_file.is_file():
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
    control = _control(read_manifest(folders[first] / MANIFEST_FILE), judged, classes)
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
    samples = read_manifest(folders[first] / MANIFEST_FILE)
    group = dict(zip(samples["sample_id"].to_pylist(), samples["group"].to_pylist(), strict=True))
    return paired_tests(chances, labels, thresholds, [group[sample_id] for sample_id in ids])


def _used(folder: Path) -> pa.Table:
    """The evaluation's predictions that count, sorted by sample_id."""
    table = read_table(folder / "predictions.parquet", "predictions", ["sample_id", "label", "probabilities"])
    return table.filter(pc.and_(pc.is_valid(table["label"]), pc.is_valid(table["probabilities"]))).sort_by("sample_id")


def evaluated(run: Path) -> Path | None:
    """The complete evaluation that a folder is or has, if any."""
    places = (run, RunFolder(run).evaluation("test"))
    return next((p for p in places if (p / "metrics.parquet").is_file() and read_success(p) is not None), None)


def _row(folder: Path, facts: Mapping[str, str]) -> dict[str, Any]:
    return {
        **_figures(read_table(folder / "metrics.parquet", "metrics").to_pylist()),
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
    metadata = read_table(folder / "metrics.parquet", "metrics").schema.metadata
    facts = {key.decode(): value.decode() for key, value in metadata.items()}
    lacking = [name for name in FACTS if name not in facts]
    if lacking or not (folder / MANIFEST_FILE).is_file():
        what = lacking[0] if lacking else "what it was made on"
        raise BundleError(f"{folder} does not say {what}: an older version wrote it; evaluate that model again")
    return facts
