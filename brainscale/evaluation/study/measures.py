"""The table of results: metrics, paired differences, published figures and facts of every row that has predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.evaluation.baselines.runner import LEARNS_NOTHING
from brainscale.evaluation.study.budget import count_operations
from brainscale.evaluation.study.data_sets import IndexedData
from brainscale.evaluation.study.divisions import CONDITIONS
from brainscale.evaluation.study.files import StudyFile
from brainscale.evaluation.study.pieces import Piece, RowPlan
from brainscale.evaluation.study.predictions import RowPredictions, read_row
from brainscale.evaluation.study.processes import read_spent
from brainscale.evaluation.study.runs import StudyPlan
from brainscale.evaluation.study.subsets import (
    ALL,
    MATCHED,
    WITHOUT_DOUBTFUL,
    Control,
    Select,
    by_size,
    without_samples,
)
from brainscale.hashing import fingerprint
from brainscale.models.registry import count_flops
from brainscale.schema import RESULTS
from brainscale.stats.estimate import Estimate
from brainscale.stats.paired_tests import holm
from brainscale.stats.repeated_folds import (
    METRICS,
    Difference,
    RepeatedPredictions,
    compare_repeated,
    estimate_repeated,
)
from brainscale.storage.local import read_success

METRIC, DIFFERENCE, PUBLISHED, FACT, CONTROL = "metric", "difference", "published", "fact", "control"
Cells = dict[str, Any]
"""Some columns of a row of the table."""


def measure_studies(plan: StudyPlan, on_notice: Callable[[str], None] = lambda text: None) -> pa.Table:
    """Return the table of schema RESULTS of everything that is complete.

    Args:
        plan: the studies.
        on_notice: called with a line for each part.
    """
    done, cells = plan.done(), list[Cells]()
    for file in plan.files:
        cells += _data_facts(file, plan.data)
        for part_name in file.study.parts:
            rows = [row for row in plan.rows if row.file is file and row.part == part_name]
            if rows:
                on_notice(f"measuring {file.name}/{part_name}")
            predicted = [read_row(row, rows, done).complete_repetitions() for row in rows]
            if rows:
                cells += _measure_part(predicted, plan.data, done)
    return pa.Table.from_pylist(cells, schema=RESULTS)


def _data_facts(file: StudyFile, data: Mapping[str, IndexedData]) -> Iterator[Cells]:
    """Yield the facts of the data sets of a study."""
    for name in file.study.data:
        if name not in data:
            continue
        manifest = data[name].manifest
        readable = manifest.filter(pc.is_null(manifest["error_code"]))
        facts: dict[str, int] = {
            "files": len(manifest),
            "errors": len(manifest) - len(readable),
            "left_out": len(readable) - readable["left_out"].null_count,
            "groups": pc.count_distinct(readable["group"]).as_py(),
            "distinct_files": pc.count_distinct(readable["sha256"]).as_py(),
            "patients": pc.count_distinct(readable["patient"]).as_py(),
            "doubtful": len(data[name].doubtful),
        }
        labels = readable["label"].drop_null().to_pylist()
        facts |= {f"label:{label}": labels.count(label) for label in sorted(set(labels))}
        base = {"study": file.name, "part": None, "row": name, "condition": "", "subset": ALL, "measure": FACT}
        for metric, value in facts.items():
            yield base | {"metric": metric, "value": float(value)}
        yield base | {"metric": "manifest", "manifest_sha256": manifest_fingerprint(manifest)}


def _measure_part(
    rows: Sequence[RowPredictions], data: Mapping[str, IndexedData], done: Mapping[str, Path]
) -> list[Cells]:
    """Return the rows of the table for one part."""
    part, _ = rows[0].plan.sections
    tested = data[part.test_data or part.data]
    negative = next(iter(rows[0].plan.file.config_of(part, next(iter(part.rows.values()))).data.classes))
    cells = [cell for row in rows for cell in _facts(row, done)]
    subsets: dict[str, Select] = {ALL: lambda model: model}
    if tested.doubtful:
        subsets[WITHOUT_DOUBTFUL] = without_samples(tested.doubtful)
    control = Control.of(tested.manifest, part.match, negative) if part.match else None
    if control is not None:
        subsets[MATCHED] = control.pair
    if part.size is not None:
        thirds, bounds = by_size(tested.manifest, part.size, negative)
        subsets |= thirds
        base = _base(rows[0].plan) | {"subset": ALL, "measure": FACT}
        cells += [base | {"metric": f"size_bound_{n}", "value": bound} for n, bound in enumerate(bounds, 1)]
    for subset, select in subsets.items():
        measured = _measure(rows, select)
        for row in rows:
            if (predictions := measured.get((row.plan.row, row.plan.condition))) is not None:
                cells += _metrics(_base(row.plan) | {"subset": subset, "measure": METRIC}, predictions)
        cells += _differences(rows, measured, subset)
    if control is not None:
        cells += _against_control(rows, {ALL: lambda model: model, MATCHED: control.pair}, control)
    return cells


def _measure(rows: Sequence[RowPredictions], select: Select) -> dict[tuple[str, str], RepeatedPredictions]:
    """Return row and condition → its predictions of a subset, where it has some."""
    together = {(row.plan.row, row.plan.condition): row.together(select) for row in rows}
    return {key: each for key, each in together.items() if each is not None}


def _metrics(base: Cells, predictions: RepeatedPredictions) -> list[Cells]:
    """Return a row of the table for each metric."""
    counts = {"models": len(predictions.models), "groups": len(np.unique(predictions.groups))}
    estimates = estimate_repeated(predictions)
    return [base | counts | {"metric": name} | _of_estimate(each) for name, each in estimates.items()]


def _against_control(rows: Sequence[RowPredictions], subsets: Mapping[str, Select], control: Control) -> list[Cells]:
    """Return the AUROC of the columns alone, on the test samples of each row, and the row's difference from it."""
    alone = {ALL: control.predict, MATCHED: control.predict_in_pairs}
    cells: list[Cells] = []
    for subset, select in subsets.items():
        measured, controls = _measure(rows, select), _measure(rows, alone[subset])
        for row in rows:
            key = row.plan.row, row.plan.condition
            if key in measured:
                base = _base(row.plan) | {"subset": subset, "metric": "auroc", "reference": " and ".join(control.names)}
                alone_estimate = estimate_repeated(controls[key])["auroc"]
                difference = compare_repeated(measured[key], controls[key])["auroc"]
                cells.append(base | {"measure": CONTROL} | _of_estimate(alone_estimate))
                cells.append(base | {"measure": DIFFERENCE} | _of_estimate(difference))
    return cells


def _differences(
    rows: Sequence[RowPredictions], measured: Mapping[tuple[str, str], RepeatedPredictions], subset: str
) -> list[Cells]:
    """Return the paired differences of a part, with Holm's adjustment over those of one metric."""
    cells: list[Cells] = []
    for row, own, other in _pairs(rows):
        if own in measured and other in measured and measured[own].models & measured[other].models:
            reference = other[1] if own[0] == other[0] else other[0]
            base = _base(row.plan) | {"subset": subset, "measure": DIFFERENCE, "reference": reference}
            differences = compare_repeated(measured[own], measured[other])
            shared = {"models": len(measured[own].models & measured[other].models)}
            cells += [base | shared | {"metric": name} | _of_estimate(each) for name, each in differences.items()]
    for name in METRICS:
        of_metric = [cell for cell in cells if cell["metric"] == name]
        for cell, adjusted in zip(of_metric, holm([cell["p"] for cell in of_metric]), strict=True):
            cell["p_holm"] = adjusted
    return cells


def _pairs(rows: Sequence[RowPredictions]) -> Iterator[tuple[RowPredictions, tuple[str, str], tuple[str, str]]]:
    """Yield what is compared: rows with the reference, and the conditions of one row of a leak part."""
    part, _ = rows[0].plan.sections
    for row in rows:
        name, condition = row.plan.row, row.plan.condition
        if part.kind == "leak":
            later = CONDITIONS[CONDITIONS.index(condition) + 1 :]
            yield from ((row, (name, condition), (name, other)) for other in later)
        elif part.reference is not None and name != part.reference:
            yield row, (name, condition), (part.reference, condition)


def _facts(row: RowPredictions, done: Mapping[str, Path]) -> Iterator[Cells]:
    """Yield what is known of a row besides its metrics."""
    base = _base(row.plan) | {"subset": ALL, "measure": FACT}
    _, section = row.plan.sections
    pieces = [piece for piece in row.plan.pieces if piece.identity in done]
    folders = [done[piece.identity] for piece in pieces]
    successes = [read_success(folder) or {} for folder in folders]
    yield base | {"metric": "models_planned", "value": float(len(row.planned))}
    yield base | {"metric": "models", "value": float(len(row.models))} | _hashes(pieces, successes)
    for name, value in _costs(row.plan.pieces[0] if row.plan.pieces else None).items():
        yield base | {"metric": name, "value": value}
    if folders:
        spent = [read_spent(folder) for folder in folders]
        minutes = [each.seconds / 60 for each in spent]
        yield base | {"metric": "hours", "value": float(np.sum(minutes) / 60)}
        yield base | {"metric": "cpu_hours", "value": sum(each.cpu_seconds for each in spent) / 3600}
        if pieces[0].baseline not in LEARNS_NOTHING:
            yield base | {"metric": "minutes_of_a_model", "value": float(np.mean(minutes))}
            yield from (base | fact for fact in _training_facts(pieces))
        parameters = [facts["parameters"] for facts in successes if facts["parameters"] is not None]
        if parameters:
            yield base | {"metric": "parameters", "value": float(parameters[0])}
        hardware = {text for facts in successes for text in facts["hardware"]}
        if hardware:
            yield base | {"metric": "hardware", "text": "; ".join(sorted(hardware))}
    condition_is_first = row.plan.condition in ("", CONDITIONS[0])
    for name, value in section.published.items() if condition_is_first else ():
        yield base | {"measure": PUBLISHED, "metric": name, "value": value}


def _training_facts(pieces: Sequence[Piece]) -> Iterator[Cells]:
    """Yield how many tested samples had a copy in the training data, and how many samples that has."""
    yield {"metric": "tested_with_copy_in_training", "value": float(np.mean([_count_leaked(p) for p in pieces]))}
    yield {"metric": "training_samples", "value": float(np.mean([_count(p, "train") for p in pieces]))}


def _hashes(pieces: Sequence[Piece], successes: Sequence[Mapping[str, Any]]) -> Cells:
    """Return the columns by which a row can be repeated; nothing of a configuration where nothing is trained."""
    if not pieces:
        return {}
    if pieces[0].baseline in LEARNS_NOTHING:
        return {"weights_sha256": [pieces[0].weights_sha256]}
    weights = [facts["weights_sha256"] for facts in successes if facts["weights_sha256"]]
    return {
        "config_sha256": pieces[0].config_sha256,
        "manifest_sha256": fingerprint([piece.manifest_sha256 for piece in pieces]),
        "seeds": [piece.config.train.seed for piece in pieces],
        "weights_sha256": weights or None,
    }


def _costs(piece: Piece | None) -> dict[str, float]:
    """Return GFLOP of a prediction (all views), side and epochs of a row's network; nothing for other rows."""
    if piece is None or piece.baseline is not None:
        return {}
    name, classes, size = piece.config.model.name, len(piece.config.data.classes), piece.config.data.image_size
    return {
        "gflop": piece.config.model.views * _flops(name, classes, size) / 1e9,
        "image_size": float(size),
        "epochs": float(piece.config.train.epochs),
        "training_tflop": count_operations(piece) / 1e12,
    }


@cache
def _flops(name: str, classes: int, size: int) -> int:
    return count_flops(name, classes, size)


def _count(piece: Piece, split: str) -> int:
    return int(pc.sum(pc.equal(piece.manifest["split"], split)).as_py() or 0)


def _count_leaked(piece: Piece) -> int:
    """Return how many samples a piece is tested on of whose group it was trained on another."""
    trained = piece.manifest.filter(pc.equal(piece.manifest["split"], "train"))["group"]
    if piece.test_manifest is not None:
        return int(pc.sum(pc.is_in(piece.test_manifest["group"], pc.unique(trained))).as_py() or 0)
    tested = piece.manifest.filter(pc.equal(piece.manifest["split"], piece.tested))["group"]
    return int(pc.sum(pc.is_in(tested, pc.unique(trained))).as_py() or 0)


def _base(plan: RowPlan) -> Cells:
    return {"study": plan.file.name, "part": plan.part, "row": plan.row, "condition": plan.condition}


def _of_estimate(estimate: Estimate) -> Cells:
    columns = {name: getattr(estimate, name) for name in ("value", "low", "high", "method", "reason", "n")}
    return columns | ({"p": estimate.p} if isinstance(estimate, Difference) else {})
