"""Compare several runs: the published metrics in one table, and paired tests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.files import CONFIG_FILE
from brainscale.dataset.header_control import HeaderPredictions, predict_from_headers
from brainscale.dataset.manifest import MANIFEST_FILE, read_manifest
from brainscale.errors import BundleError, ManifestError, UsageError
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.evaluation.outputs import METRICS_FILE, PREDICTIONS_FILE
from brainscale.schema import COMPARISON, PUBLISHED, PUBLISHED_MULTICLASS
from brainscale.stats.estimate import Estimate
from brainscale.stats.labelled import LabelledProbabilities, labelled_rows
from brainscale.stats.metrics import estimates_of, measure
from brainscale.stats.paired_tests import paired_tests
from brainscale.stats.resampling import group_codes
from brainscale.storage.local import read_success
from brainscale.storage.tables import read_table
from brainscale.training.history import HISTORY_FILE
from brainscale.training.run_folder import RunFolder

READ = (
    *("*.json", CONFIG_FILE, MANIFEST_FILE, HISTORY_FILE, METRICS_FILE, PREDICTIONS_FILE),
    *("model/*", "evaluation/*"),
)
"""Files that are read of a run or an evaluation in an object store."""
COSTS = ("parameters", "flops", "images_per_second")
FACTS = ("model", "run", "samples_sha256", "classes", "threshold", "weights_sha256", *COSTS)
"""What a comparison needs to know of an evaluation, besides its metrics."""
CONTROL = "header-only control"
"""Predicts a tumour from file size, width, height and pixel mode alone: a model that is no better learnt a shortcut."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side.

    Attributes:
        table: of schema COMPARISON, a row for each run and one for the control.
        pairs: of schema PAIRS; None where nothing can be paired.
        same: whether all runs were evaluated on the same samples; metrics on different ones cannot be compared.
    """

    table: pa.Table
    pairs: pa.Table | None
    same: bool


@dataclass(frozen=True, kw_only=True)
class _EvaluatedRun:
    """An evaluation as its folder holds it.

    Attributes:
        folder: folder of the evaluation.
        facts: what it says of itself, by the names of FACTS.
        estimates: its metrics by name.
    """

    folder: Path
    facts: Mapping[str, str]
    estimates: Mapping[str, Estimate]

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in json.loads(self.facts["classes"])]

    @cached_property
    def manifest(self) -> pa.Table:
        """The manifest that it was made on."""
        return read_manifest(self.folder / MANIFEST_FILE)

    @cached_property
    def labelled(self) -> pa.Table:
        """The predictions that count, sorted by sample_id."""
        columns = ["sample_id", "label", "probabilities"]
        return labelled_rows(read_table(self.folder / PREDICTIONS_FILE, "predictions", columns)).sort_by("sample_id")


def all_evaluated(runs: Sequence[str]) -> bool:
    """Return whether every run has its evaluation, so that no Ray is needed.

    Raises:
        UsageError: two arguments mean the same folder.
        BundleError: a folder is neither a run nor an evaluation.
    """
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UsageError("the same run is named twice: name each once")
    evaluations = [find_evaluation(Path(run)) for run in runs]
    for run, evaluation in zip(runs, evaluations, strict=True):
        if evaluation is None and not RunFolder(Path(run)).config_file.is_file():
            raise BundleError(f"{run} is neither a run nor an evaluation: name a folder that train or evaluate wrote")
    return None not in evaluations


def compare_runs(runs: Sequence[str]) -> Comparison:
    """Compare runs by their evaluations on the test split, which are made first where there are none.

    Needs a connected Ray unless the runs are `all_evaluated`. The header-only control is evaluated on the samples of
    the first run, and takes part in the paired tests.

    Args:
        runs: run folders, or folders that `evaluate` wrote.

    Raises:
        BrainscaleError: as `all_evaluated` and `evaluate_model` raise.
    """
    all_evaluated(runs)
    evaluated = {run: _read_evaluation(find_evaluation(Path(run)) or Path(evaluate_model(run).path)) for run in runs}
    same = len({(one.facts["samples_sha256"], one.facts["classes"]) for one in evaluated.values()}) == 1
    first = evaluated[runs[0]]
    control = _control(first)
    rows = [_row(one) for one in evaluated.values()]
    if control is not None:
        rows.append(_control_row(control, first))
    pairs = _pairs(evaluated, control) if same else None
    return Comparison(table=pa.Table.from_pylist(rows, schema=COMPARISON), pairs=pairs, same=same)


def find_evaluation(run: Path) -> Path | None:
    """Return the complete evaluation that a folder is or holds, or None."""
    folders = (run, RunFolder(run).evaluation("test"))
    return next((f for f in folders if (f / METRICS_FILE).is_file() and read_success(f) is not None), None)


def _control(first: _EvaluatedRun) -> HeaderPredictions | None:
    """Return the control's votes on the samples of the first run; None where there are too few groups for one."""
    try:
        votes = predict_from_headers(first.manifest, {name: i for i, name in enumerate(first.classes)})
    except ManifestError:
        return None
    return votes.select(first.labelled["sample_id"].to_pylist())


def _control_row(votes: HeaderPredictions, first: _EvaluatedRun) -> dict[str, Any]:
    samples = LabelledProbabilities(
        labels=votes.labels,
        probabilities=votes.probabilities,
        classes=tuple(first.classes),
        groups=group_codes(votes.codes),
    )
    published = _published(estimates_of(measure(samples)), len(first.classes))
    return {**published, "model": CONTROL, "run": first.facts["run"]}


def _pairs(evaluated: Mapping[str, _EvaluatedRun], control: HeaderPredictions | None) -> pa.Table | None:
    """Return paired tests on the samples that all could read, Holm-corrected; None where there is no pair."""
    if len(evaluated) + (control is not None) < 2:
        return None
    tables = {run: one.labelled for run, one in evaluated.items()}
    shared = pa.array(sorted(set.intersection(*(set(table["sample_id"].to_pylist()) for table in tables.values()))))
    first = next(iter(evaluated.values()))
    groups = dict(zip(first.manifest["sample_id"].to_pylist(), first.manifest["group"].to_pylist(), strict=True))
    models = {
        run: LabelledProbabilities.from_predictions(
            table.filter(pc.is_in(table["sample_id"], shared)),
            first.classes,
            threshold=float(evaluated[run].facts["threshold"]),
            groups=groups,
        )
        for run, table in tables.items()
    }
    if control is not None:
        any_model = next(iter(models.values()))
        models[CONTROL] = LabelledProbabilities(
            labels=any_model.labels,
            probabilities=control.select(shared.to_pylist()).probabilities,
            classes=any_model.classes,
            groups=any_model.groups,
        )
    return paired_tests(models)


def _row(evaluated: _EvaluatedRun) -> dict[str, Any]:
    facts = evaluated.facts
    return {
        **_published(evaluated.estimates, len(evaluated.classes)),
        "model": facts["model"],
        "run": facts["run"],
        "parameters": int(facts["parameters"]),
        "flops": int(facts["flops"]),
        "images_per_second": float(facts["images_per_second"]),
        "weights_sha256": facts["weights_sha256"],
    }


def _published(estimates: Mapping[str, Estimate], classes: int) -> dict[str, Any]:
    """Return the columns of the published metrics, n and the number of classes."""
    columns: dict[str, Any] = {"n": estimates["accuracy"].n, "classes": classes}
    for name in PUBLISHED if classes == 2 else PUBLISHED_MULTICLASS:
        estimate = estimates[name]
        columns |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return columns


def _read_evaluation(folder: Path) -> _EvaluatedRun:
    """Read what a comparison needs of an evaluation.

    Raises:
        BundleError: it lacks some of it, as an older version's does.
    """
    table = read_table(folder / METRICS_FILE, "metrics")
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    lacking = [name for name in FACTS if name not in facts]
    if lacking or not (folder / MANIFEST_FILE).is_file():
        what = lacking[0] if lacking else "its manifest"
        raise BundleError(f"{folder} lacks {what}: an older version wrote it; evaluate that model again")
    return _EvaluatedRun(folder=folder, facts=facts, estimates=estimates_of(table))
