"""What an evaluation leaves behind: predictions, figures, subgroups, plots, the report, the model's card."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import MANIFEST_FILE, write_manifest
from brainscale.errors import ManifestError
from brainscale.evaluation.report import page as report_page
from brainscale.evaluation.report import plots
from brainscale.evaluation.report.page import EXCLUDED, Case
from brainscale.models import heatmaps
from brainscale.models.bundle import Bundle
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.models.registry import flops
from brainscale.reading.reader import files_of_manifest, read_planes
from brainscale.reading.request import ReadRequest
from brainscale.stats import metrics
from brainscale.stats.decisions import tumour_probability
from brainscale.stats.subgroups import by_column
from brainscale.storage.local import read_success
from brainscale.storage.tables import write_table
from brainscale.training.environment import library_versions
from brainscale.training.history import read_history
from brainscale.training.run_folder import training_facts
from brainscale.training.samples import left_out

SHOWN = 12
"""Cases of each kind in the report's gallery."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model's predictions beside what is known of the samples.

    Attributes:
        bundle: the model.
        run: its run folder, where there is one.
        manifest: all samples of the data.
        rows: those of the side that was asked for.
        predictions: schema PREDICTIONS, one row for each of them.
        labels: sample_id → class index.
        shared: those that the model has learnt from or was chosen by, as `overlap` gives them; None where that is
            not known.
        looks: how many times these samples were looked at; None for sides that are not sealed.
        prevalence: of tumours where the model is to be used.
        by: columns whose subgroups get figures of their own.
    """

    bundle: Bundle
    run: Path | None
    manifest: pa.Table
    rows: pa.Table
    predictions: pa.Table
    labels: Mapping[str, int]
    shared: pa.Table | None = None
    looks: int | None = None
    prevalence: float | None = None
    by: Sequence[str] = ()

    @property
    def used(self) -> pa.Table:
        """Predictions that count: read, and labelled."""
        table = self.predictions
        return table.filter(pc.and_(pc.is_null(table["error_code"]), pc.is_valid(table["label"])))

    def column(self, name: str, sample_ids: Sequence[str]) -> list[Any]:
        """A manifest's column for some samples."""
        known = dict(zip(self.rows["sample_id"].to_pylist(), self.rows[name].to_pylist(), strict=True))
        return [known[sample_id] for sample_id in sample_ids]


def write_outputs(folder: Path, done: EvaluatedModel, facts: Mapping[str, Any]) -> pa.Table:
    """Write it all; return the figures.

    Raises:
        ManifestError: no labelled sample could be read.
    """
    used, info = done.used, done.bundle.info
    if not len(used):
        raise ManifestError("no labelled sample could be read: `brainscale index` says why, file by file")
    ids = used["sample_id"].to_pylist()
    truth = np.array([done.labels[sample_id] for sample_id in ids])
    chances = np.array(used["probabilities"].to_pylist(), np.float64)
    groups, classes = _groups(done, ids), list(info.classes)
    figures = metrics.compute_metrics(
        truth, chances, classes, info.threshold, groups=groups, prevalence=done.prevalence
    ).replace_schema_metadata({key: str(value) for key, value in _metadata(done, facts).items()})
    write_manifest(done.manifest, folder / MANIFEST_FILE)
    write_table(done.predictions, folder / "predictions.parquet", "predictions")
    write_table(figures, folder / "metrics.parquet", "metrics")
    subgroups = _subgroups(done, ids, truth, chances, groups)
    if subgroups is not None:
        write_table(subgroups, folder / "subgroups.parquet", "subgroups")
    page = report_page.ReportPage(
        title=_title(facts),
        metrics=figures,
        classes=classes,
        labels=truth,
        probabilities=chances,
        threshold=info.threshold,
        threshold_source=info.threshold_source,
        groups=groups,
        temperature_source=None if info.temperature == 1 else f"{info.temperature:.4g} ({info.temperature_source})",
        prevalence=done.prevalence,
        plots=plots.draw(truth, chances, classes, info.threshold, folder / "plots", groups),
        history=_history(done.run),
        **_gallery(done, used),
        flow=_flow(done),
        duplicates=_duplicates(done.rows),
        shared=None if done.shared is None else dict(Counter(done.shared["kind"].to_pylist())),
        without_shared=_without_shared(folder, done, ids, truth, chances),
        looks=done.looks,
        subgroups=subgroups,
        facts=_provenance(done, facts),
    )
    report_page.write_report(folder / "report.html", page)
    _complete_card(done, figures, facts)
    return figures


def _title(facts: Mapping[str, Any]) -> str:
    side = "all samples" if facts["split"] == "all" else f"{facts['split']} part"
    return " of ".join(filter(None, (f"{facts['model']}: {side}", facts["data"])))


def _complete_card(done: EvaluatedModel, figures: pa.Table, facts: Mapping[str, Any]) -> None:
    """The run's own test part belongs on its model's card."""
    trained = None if done.run is None else read_success(done.run)
    if trained is None or facts["split"] != "test" or facts["manifest_sha256"] != done.bundle.info.manifest_sha256:
        return
    info, training = done.bundle.info, training_facts(trained)
    about = ModelFacts(
        info=info,
        training=training,
        metrics=figures,
        evaluated_on="the test part of its own data",
        prevalence=done.prevalence,
    )
    write_model_card(done.bundle.folder, about)


def _groups(done: EvaluatedModel, ids: Sequence[str]) -> list[str]:
    """What counts as one in a bootstrap: a group of the manifest, or the sample."""
    return [group or sample_id for group, sample_id in zip(done.column("group", ids), ids, strict=True)]


def _metadata(done: EvaluatedModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a comparison of models needs to know."""
    info = done.bundle.info
    cost = flops(info.architecture, len(info.classes), info.preprocess.image_size)
    return {**facts, "flops": cost, "classes": json.dumps(list(info.classes)), "threshold": info.threshold}


def _subgroups(
    done: EvaluatedModel, ids: Sequence[str], truth: np.ndarray, chances: np.ndarray, groups: Sequence[str]
) -> pa.Table | None:
    info = done.bundle.info
    tables = [
        by_column(
            truth, chances, done.column(name, ids), list(info.classes), info.threshold, column=name, groups=groups
        )
        for name in done.by
    ]
    return pa.concat_tables(tables) if tables else None


def _without_shared(
    folder: Path, done: EvaluatedModel, ids: Sequence[str], truth: np.ndarray, chances: np.ndarray
) -> pa.Table | None:
    """Figures of the samples that the model has not seen, where it has seen some and not all; written, too."""
    path = folder / "metrics-without-shared.parquet"
    path.unlink(missing_ok=True)  # of an evaluation before this one
    if done.shared is None:
        return None
    write_table(done.shared, folder / "shared.parquet", "overlap")
    known = set(done.shared["sample_id"].to_pylist())
    own = np.array([sample_id not in known for sample_id in ids], bool)
    if own.all() or not own.any():
        return None
    info, kept = done.bundle.info, [sample_id for sample_id in ids if sample_id not in known]
    groups = _groups(done, kept)
    table = metrics.compute_metrics(
        truth[own], chances[own], list(info.classes), info.threshold, groups=groups, prevalence=done.prevalence
    )
    write_table(table, path, "metrics")
    return table


def _gallery(done: EvaluatedModel, used: pa.Table) -> dict[str, list[Case]]:
    """The worst errors and the least certain cases, with pictures of what spoke for a tumour."""
    rows = used.select(["sample_id", "label", "prediction", "probability"]).to_pylist()
    lead = dict(zip(used["sample_id"].to_pylist(), _leads(done, used).tolist(), strict=True))
    sure = sorted(rows, key=lambda row: -lead[row["sample_id"]])
    worst = [row for row in sure if row["label"] != row["prediction"]][:SHOWN]
    named = {row["sample_id"] for row in worst}
    uncertain = [row for row in sure[::-1] if row["sample_id"] not in named][:SHOWN]
    pictures = _pictures(done, [row["sample_id"] for row in (*worst, *uncertain)])
    return {
        name: [Case(**row, picture=pictures.get(row["sample_id"])) for row in some]
        for name, some in (("worst", worst), ("uncertain", uncertain))
    }


def _leads(done: EvaluatedModel, used: pa.Table) -> np.ndarray:
    """How sure each call is [n]: its distance from the threshold; with more classes, from the second likeliest."""
    chances = np.array(used["probabilities"].to_pylist(), np.float64)
    if chances.shape[1] == 2:
        return np.abs(tumour_probability(chances) - done.bundle.info.threshold)
    ordered = np.sort(chances, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def _pictures(done: EvaluatedModel, sample_ids: Sequence[str]) -> dict[str, bytes]:
    request = ReadRequest(preprocess=done.bundle.info.preprocess)
    planes = read_planes(files_of_manifest(done.rows), sample_ids, request)
    return dict(zip(planes, heatmaps.pictures(done.bundle, list(planes.values())), strict=True))


def _history(run: Path | None) -> list[dict[str, Any]] | None:
    return (read_history(run) or None) if run is not None else None


def _flow(done: EvaluatedModel) -> dict[str, int]:
    """From the files seen to the samples used; what was left out adds up to the difference."""
    table, aside = done.predictions, Counter[str]()
    if len(done.rows) < len(done.manifest):
        sides = Counter(done.manifest["split"].drop_null().to_pylist())
        here = set(done.rows["split"].to_pylist())
        aside.update({f"{side} part": count for side, count in sides.items() if side not in here})
        aside.update(left_out(done.manifest))
    aside.update(table["error_code"].drop_null().to_pylist())
    aside["no label"] = pc.sum(pc.and_(pc.is_null(table["error_code"]), pc.is_null(table["label"]))).as_py()
    return {
        "files seen": len(files_of_manifest(done.manifest)),
        "samples in them": len(done.manifest),
        "samples of this side": len(done.rows),
        **{f"{EXCLUDED}{reason.replace('_', ' ')}": count for reason, count in sorted(aside.items()) if count},
        "samples used": len(done.used),
    }


def _duplicates(rows: pa.Table) -> dict[str, int]:
    known = rows.filter(pc.is_valid(rows["sha256"]))
    groups = len(pc.unique(known["group"].drop_null()))
    return {
        "groups (patients, series, copies)": groups,
        "samples beyond one a group": len(known) - known["group"].null_count - groups,
        "byte-identical copies": len(known) - len(pc.unique(known["sha256"])),
    }


def _provenance(done: EvaluatedModel, facts: Mapping[str, Any]) -> dict[str, str]:
    info = done.bundle.info
    known = {
        **facts,
        "training manifest": info.manifest_sha256,
        "configuration": info.config_sha256,
        "seed": info.seed,
        "epoch": info.epoch,
        "image size": f"{info.preprocess.image_size} px",
        **library_versions(),
    }
    return {key.replace("_", " "): str(value) for key, value in known.items() if value is not None}
