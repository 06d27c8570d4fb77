"""Compare several runs: the published metrics in one table, and paired tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.files import CONFIG_FILE
from brainscale.dataset.header_control import HeaderPredictions
from brainscale.dataset.manifest import MANIFEST_FILE
from brainscale.errors import ManifestError
from brainscale.evaluation.arguments import find_evaluation, require_runs
from brainscale.evaluation.comparability import require_comparable
from brainscale.evaluation.evaluated_run import EvaluatedRun, read_evaluation
from brainscale.evaluation.header_comparison import CONTROL
from brainscale.evaluation.header_votes import VOTES_FILE, find_votes
from brainscale.evaluation.matched import match_labelled, require_slices
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.evaluation.units import UNIT_FILES
from brainscale.models.bundle import NOVELTY, ONNX, WEIGHTS
from brainscale.schema import COMPARISON, PAIRS, PUBLISHED, PUBLISHED_MULTICLASS
from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from brainscale.stats.paired_tests import paired_tests
from brainscale.stats.resampling import group_codes
from brainscale.stats.units import require_unit
from brainscale.training.history import HISTORY_FILE

READ = (
    *("*.json", CONFIG_FILE, MANIFEST_FILE, HISTORY_FILE, METRICS_FILE, PREDICTIONS_FILE, VOTES_FILE, *UNIT_FILES),
    *("model/*", WEIGHTS, ONNX, NOVELTY, "evaluation/*"),
)
"""Files that are read of a run or an evaluation in an object store."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side.

    Attributes:
        table: of schema COMPARISON, a row for each run and one for each control.
        pairs: of schema PAIRS; None where nothing can be paired.
        not_comparable: why the metrics cannot be compared, in one sentence; None where they can. It is in a column of
            both tables too.
    """

    table: pa.Table
    pairs: pa.Table | None
    not_comparable: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the output of `compare --json`: whether the models are comparable, and the rows of both tables."""
        return {
            "comparable": self.not_comparable is None,
            "not_comparable": self.not_comparable,
            "models": self.table.to_pylist(),
            "pairs": None if self.pairs is None else self.pairs.to_pylist(),
        }


def compare_runs(
    runs: Sequence[str],
    *,
    unit: str = "slice",
    match: Sequence[str] = (),
    force: bool = False,
    names: Sequence[str] | None = None,
) -> Comparison:
    """Compare runs by their evaluations on the test split, which are made first where there are none.

    The header-only control is evaluated on the samples of the first run, and takes part in the paired tests.

    Args:
        runs: run folders, or folders that `evaluate` wrote.
        unit: slice, scan or patient: which evaluation of a run is compared.
        match: columns of the first run's manifest: only pairs of its samples that agree in them count, and what the
            columns alone predict is one more control.
        force: whether to compare runs that were evaluated on different samples or with different classes; all outputs
            say so, and the tests take the samples that all have.
        names: names of the runs in the result, such as the addresses of which `runs` are copies; by default the paths.

    Raises:
        ManifestError: the runs cannot be compared.
        UsageError: two arguments mean the same folder.
        BundleError: a folder is neither a run nor an evaluation.
        BrainscaleError: as `evaluate_model` raises.
    """
    require_slices(match, require_unit(unit))
    require_runs(runs, unit)
    run_of = dict(zip(names or runs, runs, strict=True))
    found = {name: find_evaluation(Path(run), unit) for name, run in run_of.items()}
    existing = {name: read_evaluation(folder) for name, folder in found.items() if folder is not None}
    require_comparable(_facts_of(existing), force=force)  # before the others are evaluated, which takes long
    evaluated = {name: existing.get(name) or _evaluate(run, unit) for name, run in run_of.items()}
    reason = require_comparable(_facts_of(evaluated), force=force)
    alone = dict[str, HeaderPredictions]()
    if match:
        evaluated, alone = _match(evaluated, match)
    first = next(iter(evaluated.values()))
    control = _control(first)
    rows = [_row(one) for one in evaluated.values()]
    for name, votes in {**alone, **({} if control is None else {CONTROL: control})}.items():
        rows.append(_control_row(votes, first, name))
    pairs = _pairs(evaluated, control, alone)
    marks = {"matched_on": ", ".join(match) or None, "not_comparable": reason}
    table = pa.Table.from_pylist([row | marks for row in rows], schema=COMPARISON)
    return Comparison(table=table, pairs=_mark_pairs(pairs, reason), not_comparable=reason)


def _evaluate(run: str, unit: str) -> EvaluatedRun:
    from brainscale.evaluation.evaluator import evaluate_model  # here: what draws reports loads for half a second

    return read_evaluation(Path(evaluate_model(run, unit=unit).path))


def _match(
    evaluated: Mapping[str, EvaluatedRun], match: Sequence[str]
) -> tuple[dict[str, EvaluatedRun], dict[str, HeaderPredictions]]:
    """Return the evaluations of the samples in matched pairs, and the control's name → its predictions for these.

    Of several kinds of tumour, the columns alone predict each as often as it is among the samples in pairs.
    """
    first = replace(next(iter(evaluated.values())), columns=match)
    samples, sample_ids = first.samples, first.labelled["sample_id"]
    matched = match_labelled(first.manifest, sample_ids, samples, match)
    rows = matched.pairs.rows
    labels, tumour = samples.labels[rows], matched.alone_in_pairs[rows]
    kinds = np.bincount(labels, minlength=len(samples.classes))[1:] / max(1, int(np.count_nonzero(labels)))
    ids = sample_ids.take(pa.array(rows))
    alone = HeaderPredictions(
        sample_ids=ids.to_pylist(),
        labels=labels,
        probabilities=np.column_stack([1 - tumour, np.outer(tumour, kinds)]),
        codes=samples.codes[rows],
    )
    return {run: one.restrict(ids) for run, one in evaluated.items()}, {matched.control_name: alone}


def _facts_of(evaluated: Mapping[str, EvaluatedRun]) -> dict[str, Mapping[str, str]]:
    return {run: one.facts for run, one in evaluated.items()}


def _mark_pairs(pairs: pa.Table | None, reason: str | None) -> pa.Table | None:
    """Return paired tests with the reason why the models cannot be compared, if there is one."""
    if pairs is None:
        return None
    place = pairs.schema.get_field_index("not_comparable")
    return pairs.set_column(place, PAIRS.field("not_comparable"), pa.array([reason] * len(pairs), pa.string()))


def _control(first: EvaluatedRun) -> HeaderPredictions | None:
    """Return the control's votes on the samples of the first run; None for scans and patients, or too few groups."""
    if first.facts["unit"] != "slice":
        return None
    try:
        return find_votes(first.folder, lambda: first.manifest, first.labelled["sample_id"], first.classes)
    except ManifestError:
        return None


def _control_row(votes: HeaderPredictions, first: EvaluatedRun, name: str) -> dict[str, Any]:
    samples = LabelledProbabilities(
        labels=votes.labels,
        probabilities=votes.probabilities,
        classes=tuple(first.classes),
        groups=group_codes(votes.codes),
    )
    return {
        **_published(estimates_of(measure(samples)), len(first.classes)),
        "model": name,
        "run": first.facts["run"],
        "unit": first.facts["unit"],
        "samples_sha256": first.facts["samples_sha256"],
    }


def _pairs(
    evaluated: Mapping[str, EvaluatedRun],
    control: HeaderPredictions | None,
    alone: Mapping[str, HeaderPredictions],
) -> pa.Table | None:
    """Return paired tests on the samples that all could read, Holm-corrected; None where there is no pair."""
    if len(evaluated) + len(alone) + (control is not None) < 2:
        return None
    tables = {run: one.labelled for run, one in evaluated.items()}
    shared = _shared_samples(list(tables.values()))
    first = next(iter(evaluated.values()))
    if not len(shared) or any(one.facts["classes"] != first.facts["classes"] for one in evaluated.values()):
        return None
    thresholds = {run: one.threshold for run, one in evaluated.items()}
    models = {
        run: LabelledProbabilities.from_predictions(
            tables[run].filter(pc.is_in(tables[run]["sample_id"], shared)),
            first.classes,
            threshold=threshold,
            groups=first.groups,
        )
        for run, threshold in thresholds.items()
        if threshold is not None
    }
    if len(models) < len(evaluated):  # a test of predictions needs all of them
        return None
    for name, predictions in alone.items():
        of_shared = predictions.select(shared.to_pylist()).probabilities
        models[name] = replace(next(iter(models.values())), probabilities=of_shared, threshold=0.5)
    if control is None:
        return paired_tests(models)
    has_vote = pc.is_in(shared, pa.array(control.sample_ids, pa.string()))
    rows = np.flatnonzero(has_vote.to_numpy(zero_copy_only=False))
    model = next(iter(models.values())).take(rows)
    votes = replace(
        model, probabilities=control.select(shared.filter(has_vote).to_pylist()).probabilities, threshold=0.5
    )
    return paired_tests({**models, CONTROL: votes}, {CONTROL: rows})


def _shared_samples(tables: Sequence[pa.Table]) -> pa.Array:
    """Return the ids of the samples that all tables have with the same content and label, sorted."""
    first, *others = tables
    is_shared = [pc.is_in(_contents(first), _contents(table).combine_chunks()) for table in others]
    ids = first["sample_id"].filter(reduce(pc.and_, is_shared)) if others else first["sample_id"]
    return ids.combine_chunks()


def _contents(table: pa.Table) -> pa.ChunkedArray:
    """Return a text for each row that tells its id, content and label."""
    return pc.binary_join_element_wise(pc.fill_null(table["sha256"], ""), table["label"], table["sample_id"], "\n")


def _row(evaluated: EvaluatedRun) -> dict[str, Any]:
    facts = evaluated.facts
    return {
        **_published(evaluated.estimates, len(evaluated.classes)),
        "model": facts["model"],
        "run": facts["run"],
        "unit": facts["unit"],
        "parameters": _number(facts["parameters"]),
        "flops": _number(facts["flops"]),
        "images_per_second": _number(facts["images_per_second"]),
        "weights_sha256": facts["weights_sha256"],
        "samples_sha256": facts["samples_sha256"],
        "degenerate": facts.get("degenerate"),
        "model_edited": facts["model_edited"] == "True",
    }


def _number(text: str) -> float | None:
    """Return a fact as a number; a baseline has no parameters or operations to count."""
    return None if text == "None" else float(text)


def _published(estimates: Mapping[str, Estimate], classes: int) -> dict[str, Any]:
    """Return the columns of the published metrics, n and the number of classes."""
    columns: dict[str, Any] = {"n": estimates["accuracy"].n, "classes": classes}
    for name in PUBLISHED if classes == 2 else PUBLISHED_MULTICLASS:
        estimate = estimates[name]
        columns |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return columns
