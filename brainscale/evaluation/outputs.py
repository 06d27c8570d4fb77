"""Files of an evaluation: predictions, metrics, subgroups, plots, the report, the model's card."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import MANIFEST_FILE, write_manifest
from brainscale.dataset.patients import describe_unknown_patients
from brainscale.errors import ManifestError
from brainscale.evaluation.gallery import choose_cases
from brainscale.evaluation.heatmap_quality import measure_faithfulness
from brainscale.evaluation.report.page import ReportPage, write_report
from brainscale.evaluation.report.plots import draw_plots
from brainscale.evaluation.results import EvaluationFacts
from brainscale.evaluation.sample_flow import count_duplicates, count_flow
from brainscale.models.bundle import Bundle
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.models.registry import count_flops
from brainscale.stats.labelled import LabelledProbabilities, labelled_rows
from brainscale.stats.metrics import measure
from brainscale.stats.subgroups import measure_subgroups
from brainscale.storage.tables import write_table
from brainscale.training.environment import read_library_versions
from brainscale.training.run_folder import RunFolder, describe_training_data

PREDICTIONS_FILE, METRICS_FILE = "predictions.parquet", "metrics.parquet"


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model's predictions beside what is known of the samples.

    Attributes:
        bundle: the model.
        run: its run folder, where there is one.
        manifest: all samples of the data.
        rows: those of the split that was evaluated.
        predictions: table of schema PREDICTIONS, one row for each of them.
        leaked: those that trained or selected the model, as `find_overlap` gives them; None where that is unknown.
        looks: number of times these samples were evaluated; None for splits that training used.
        prevalence: share of tumours where the model will be used.
        by: columns whose subgroups get metrics of their own.
        show_burned_in: whether the report shows pictures of samples with text burned in.
    """

    bundle: Bundle
    run: RunFolder | None
    manifest: pa.Table
    rows: pa.Table
    predictions: pa.Table
    leaked: pa.Table | None = None
    looks: int | None = None
    prevalence: float | None = None
    by: Sequence[str] = ()
    show_burned_in: bool = False

    @cached_property
    def labelled(self) -> pa.Table:
        """The predictions that count: rows with a label and probabilities."""
        return labelled_rows(self.predictions)

    @property
    def unlabelled(self) -> int:
        """The number of rows with probabilities but without a label."""
        is_scored = pc.is_null(self.predictions["error_code"])
        return pc.sum(pc.and_(is_scored, pc.is_null(self.predictions["label"]))).as_py() or 0

    @cached_property
    def samples(self) -> LabelledProbabilities:
        """Labels and probabilities of these rows."""
        info, groups = self.bundle.info, self.rows["group"].to_pylist()
        return LabelledProbabilities.from_predictions(
            self.labelled,
            list(info.classes),
            threshold=info.threshold,
            groups=dict(zip(self.rows["sample_id"].to_pylist(), groups, strict=True)),
        )

    def column(self, name: str) -> list[Any]:
        """Return the values of a manifest's column for these rows."""
        values = dict(zip(self.rows["sample_id"].to_pylist(), self.rows[name].to_pylist(), strict=True))
        return [values[sample_id] for sample_id in self.labelled["sample_id"].to_pylist()]


def write_outputs(folder: Path, model: EvaluatedModel, facts: EvaluationFacts) -> pa.Table:
    """Write all files of an evaluation but `_SUCCESS.json`.

    Returns:
        The metrics, of schema METRICS.

    Raises:
        ManifestError: no labelled sample could be read.
    """
    if not len(model.labelled):
        raise ManifestError("no labelled sample could be read: `brainscale index` says why, file by file")
    metadata = {key: str(value) for key, value in _metadata(model, facts).items()}
    metrics = measure(model.samples, model.prevalence).replace_schema_metadata(metadata)
    write_manifest(model.manifest, folder / MANIFEST_FILE)
    write_table(model.predictions, folder / PREDICTIONS_FILE, "predictions")
    write_table(metrics, folder / METRICS_FILE, "metrics")
    subgroups = _write_subgroups(folder, model)
    without_leaked = _write_leakage(folder, model)
    info = model.bundle.info
    worst, uncertain = choose_cases(
        model.bundle, model.rows, model.labelled, model.samples, show_burned_in=model.show_burned_in
    )
    page = ReportPage(
        title=_title(facts),
        samples=model.samples,
        metrics=metrics,
        threshold_source=info.threshold_source,
        temperature_source=None if info.temperature == 1 else f"{info.temperature:.4g} ({info.temperature_source})",
        prevalence=model.prevalence,
        plots=draw_plots(model.samples, folder / "plots"),
        history=None if model.run is None else model.run.history(),
        worst=worst,
        uncertain=uncertain,
        unlabelled=model.unlabelled,
        unknown_patients=describe_unknown_patients(model.rows),
        flow=count_flow(model.manifest, model.rows, model.predictions),
        duplicates=count_duplicates(model.rows),
        leaked=None if model.leaked is None else Counter(model.leaked["kind"].to_pylist()),
        without_leaked=without_leaked,
        looks=model.looks,
        degenerate=facts.degenerate,
        faithfulness=measure_faithfulness(model.bundle, model.rows, model.labelled),
        subgroups=subgroups,
        facts=_provenance(model, facts),
    )
    write_report(folder / "report.html", page)
    _complete_card(model, metrics, facts)
    return metrics


def _title(facts: EvaluationFacts) -> str:
    split = "all samples" if facts.split == "all" else f"{facts.split} split"
    return " of ".join(filter(None, (f"{facts.model}: {split}", facts.data)))


def _complete_card(model: EvaluatedModel, metrics: pa.Table, facts: EvaluationFacts) -> None:
    """Write the metrics of the run's own test split to its model card."""
    trained, info = None if model.run is None else model.run.result(), model.bundle.info
    if trained is None or facts.split != "test" or facts.manifest_sha256 != info.manifest_sha256:
        return
    card = ModelFacts(
        info=info,
        training=describe_training_data(trained),
        unknown_patients=describe_unknown_patients(model.manifest),
        metrics=metrics,
        evaluated_on="the test split of its own data",
        prevalence=model.prevalence,
        degenerate=facts.degenerate,
    )
    write_model_card(model.bundle.folder, card)


def _metadata(model: EvaluatedModel, facts: EvaluationFacts) -> dict[str, Any]:
    """Return what a comparison of models needs to know."""
    info = model.bundle.info
    cost = count_flops(info.architecture, len(info.classes), info.preprocess.image_size)
    classes = json.dumps(list(info.classes))
    return {**facts.to_json(), "flops": cost, "classes": classes, "threshold": info.threshold}


def _write_subgroups(folder: Path, model: EvaluatedModel) -> pa.Table | None:
    """Write and return the metrics of the subgroups, where columns are given."""
    path = folder / "subgroups.parquet"
    path.unlink(missing_ok=True)  # of an evaluation before this one
    if not model.by:
        return None
    tables = [measure_subgroups(model.samples, model.column(name), column=name) for name in model.by]
    table = pa.concat_tables(tables)
    write_table(table, path, "subgroups")
    return table


def _write_leakage(folder: Path, model: EvaluatedModel) -> pa.Table | None:
    """Write which samples the model has seen; write and return the metrics of the others, where there are both."""
    leaked_path, path = folder / "shared.parquet", folder / "metrics-without-shared.parquet"
    for stale in (leaked_path, path):
        stale.unlink(missing_ok=True)  # of an evaluation before this one
    if model.leaked is None:
        return None
    write_table(model.leaked, leaked_path, "overlap")
    seen = pc.is_in(model.labelled["sample_id"], model.leaked["sample_id"].combine_chunks())
    unseen = np.asarray(pc.invert(seen).to_numpy(), bool)
    if unseen.all() or not unseen.any():
        return None
    table = measure(model.samples.take(unseen), model.prevalence)
    write_table(table, path, "metrics")
    return table


def _provenance(model: EvaluatedModel, facts: EvaluationFacts) -> dict[str, str]:
    info, named = model.bundle.info, facts.to_json()
    named.pop("degenerate")  # it is at the top of the page
    named["evaluations of these samples"] = named.pop("looks")
    named["samples shared with training"] = named.pop("shared_with_training")
    lines = {
        **named,
        "training manifest": info.manifest_sha256,
        "configuration": info.config_sha256,
        "seed": info.seed,
        "epoch": info.epoch,
        "image size": f"{info.preprocess.image_size} px",
        **read_library_versions(),
    }
    return {key.replace("_", " "): str(value) for key, value in lines.items() if value is not None}
