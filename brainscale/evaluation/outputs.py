"""Files of an evaluation: predictions, metrics, subgroups, the report, the model's card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import MANIFEST_FILE
from brainscale.dataset.patients import describe_unknown_patients
from brainscale.errors import ManifestError
from brainscale.evaluation.drawing import ReportTables, draw_report
from brainscale.evaluation.evaluated_model import EvaluatedModel
from brainscale.evaluation.header_votes import VOTES_FILE, write_votes
from brainscale.evaluation.matched import write_matched
from brainscale.evaluation.results import (
    CONFUSION_FILE,
    LEAKED_FILE,
    MATCHED_FILE,
    METRICS_FILE,
    PAIRS_FILE,
    PLOTS_FOLDER,
    PREDICTIONS_FILE,
    REPORT_FILE,
    REPORT_OPTIONS,
    SUBGROUPS_FILE,
    WITHOUT_LEAKED_FILE,
    EvaluationFacts,
)
from brainscale.evaluation.units import UNIT_FILES, drop_threshold_metrics
from brainscale.models.bundle import mark_edited
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.scoring.per_unit import table_kind
from brainscale.stats.confusion import confusion_table
from brainscale.stats.metrics import measure
from brainscale.stats.resampling import Map
from brainscale.stats.subgroups import measure_subgroups
from brainscale.storage.tables import write_table
from brainscale.training.run_folder import describe_training_data

FILES = (
    *(MANIFEST_FILE, PREDICTIONS_FILE, METRICS_FILE, CONFUSION_FILE, SUBGROUPS_FILE, *UNIT_FILES),
    *(LEAKED_FILE, WITHOUT_LEAKED_FILE, MATCHED_FILE, PAIRS_FILE, VOTES_FILE, REPORT_FILE, PLOTS_FOLDER),
)
"""Files and folders that an evaluation may write; one that replaces another keeps none of its."""


def write_outputs(folder: Path, model: EvaluatedModel, facts: EvaluationFacts, run: Map = map) -> pa.Table:
    """Write all files of an evaluation but its manifest and `_SUCCESS.json`.

    Args:
        folder: where to write.
        model: the model, and what it predicted.
        facts: what the outputs say of the evaluation.
        run: computes parts of a large bootstrap, as for `measure`.

    Returns:
        The metrics, of schema METRICS.

    Raises:
        ManifestError: no labelled sample could be read.
    """
    if not len(model.labelled):
        what = "sample" if model.unit == "slice" else f"slice of a {model.unit}"
        raise ManifestError(f"no labelled {what} could be read: `brainscale index` says why, file by file")
    metrics = drop_threshold_metrics(measure(model.samples, model.prevalence, run), model.no_threshold)
    write_table(model.predictions, folder / PREDICTIONS_FILE, "predictions")
    _write_confusion(folder, model)
    _write_units(folder, model)
    subgroups = _write_subgroups(folder, model, run)
    without_leaked = _write_leakage(folder, model, run)
    write_matched(folder, model.matched, model.bundle)
    _write_header_votes(folder, model)
    metadata = {
        key: str(value) for key, value in _metadata(model, facts).items()
    }  # from here on torch takes memory too
    metrics = metrics.replace_schema_metadata(metadata)
    write_table(metrics, folder / METRICS_FILE, "metrics")
    if model.report:
        draw_report(folder, model, facts, ReportTables(metrics, subgroups, without_leaked))
    return metrics


def _write_units(folder: Path, model: EvaluatedModel) -> None:
    """Write the table of scans or patients, where these are evaluated."""
    if model.of_units is not None:
        kind = table_kind(model.unit)
        write_table(mark_edited(model.of_units.table, model.bundle), folder / f"{kind}.parquet", kind)


def complete_card(model: EvaluatedModel, metrics: pa.Table, facts: EvaluationFacts) -> None:
    """Write the metrics of the run's own test split to its model card.

    Raises:
        OutputError: the model's folder cannot be written.
    """
    trained, info = None if model.run is None else model.run.result(), model.bundle.info
    is_own_test = (facts.split, facts.unit, facts.manifest_sha256) == ("test", "slice", info.manifest_sha256)
    if trained is None or not is_own_test:
        return
    card = ModelFacts(
        info=info,
        training=describe_training_data(trained),
        unknown_patients=describe_unknown_patients(model.manifest),
        metrics=metrics,
        evaluated_on="the test split of its own data",
        prevalence=model.prevalence,
        degenerate=facts.degenerate,
        edited=model.bundle.edited,
    )
    write_model_card(model.bundle.folder, card)


def _metadata(model: EvaluatedModel, facts: EvaluationFacts) -> dict[str, Any]:
    """Return what a comparison of models needs to know."""
    from brainscale.models.ensemble import (
        count_model_flops,
    )  # here: it needs torch, and the metrics of a million memory

    info = model.bundle.info
    cost = count_model_flops(info.network, len(info.classes), info.preprocess.image_size)
    classes = json.dumps(list(info.classes))
    known = {name: value for name, value in facts.to_json().items() if value is not None}
    point = model.operating_point
    options = {"command": model.command, "match": list(model.match), "show_burned_in": model.show_burned_in}
    return {
        **known,
        "flops": cost,
        "classes": classes,
        "threshold": None if point is None else point.threshold,
        REPORT_OPTIONS: json.dumps(options),
    }


def _write_confusion(folder: Path, model: EvaluatedModel) -> None:
    """Write the confusion matrix, where something is predicted."""
    if model.no_threshold is None:
        write_table(confusion_table(model.samples), folder / CONFUSION_FILE, "confusion")


def _write_header_votes(folder: Path, model: EvaluatedModel) -> None:
    """Write the votes of the header-only control, which the report and comparisons show."""
    if model.report and model.header_votes is not None:
        write_votes(model.header_votes, folder)


def _write_subgroups(folder: Path, model: EvaluatedModel, run: Map) -> pa.Table | None:
    """Write and return the metrics of the subgroups, where columns are given."""
    if not model.by:
        return None
    tables = [measure_subgroups(model.samples, model.column(name), column=name, run=run) for name in model.by]
    table = mark_edited(drop_threshold_metrics(pa.concat_tables(tables), model.no_threshold), model.bundle)
    write_table(table, folder / SUBGROUPS_FILE, "subgroups")
    return table


def _write_leakage(folder: Path, model: EvaluatedModel, run: Map) -> pa.Table | None:
    """Write which samples the model has seen; write and return the metrics of the others, where there are both."""
    if model.leaked is None:
        return None
    write_table(mark_edited(model.leaked, model.bundle), folder / LEAKED_FILE, "overlap")
    if model.of_units is not None:
        unseen = ~model.of_units.contain(model.leaked["sample_id"].to_pylist())
    else:
        seen = pc.is_in(model.labelled["sample_id"], model.leaked["sample_id"].combine_chunks())
        unseen = np.asarray(pc.invert(seen).to_numpy(), bool)
    if unseen.all() or not unseen.any():
        return None
    table = drop_threshold_metrics(measure(model.samples.take(unseen), model.prevalence, run), model.no_threshold)
    table = mark_edited(table, model.bundle)
    write_table(table, folder / WITHOUT_LEAKED_FILE, "metrics")
    return table
