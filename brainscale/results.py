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
import pyarrow.parquet as pq

from brainscale import heatmaps, metrics
from brainscale.bundle import Bundle
from brainscale.errors import ManifestError
from brainscale.files import read_success, replacing, versions
from brainscale.models.cost import flops
from brainscale.reading import planes_of, units_of
from brainscale.report import html, plots
from brainscale.report.card import ModelFacts, write_model_card
from brainscale.report.html import EXCLUDED, Case
from brainscale.runs import training_of
from brainscale.schema import HISTORY
from brainscale.subgroups import by_column
from brainscale.wish import Wish

SHOWN = 12
"""Cases of each kind in the report's gallery."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A model's predictions beside what is known of the samples.

    Attributes:
        bundle: the model.
        run: its run folder, where there is one.
        manifest: all samples of the data.
        rows: those of the side that was asked for.
        predictions: schema PREDICTIONS, one row for each of them.
        labels: sample_id → class index.
        shared: those that the model was trained with, as `overlap` gives them; None where that is not known.
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


def write_results(folder: Path, done: Evaluated, facts: Mapping[str, Any]) -> pa.Table:
    """Write it all; return the figures.

    Raises:
        ManifestError: no labelled sample could be read.
    """
    used, card = done.used, done.bundle.card
    if not len(used):
        raise ManifestError("no labelled sample could be read: `brainscale index` says why, file by file")
    ids = used["sample_id"].to_pylist()
    truth = np.array([done.labels[sample_id] for sample_id in ids])
    chances = np.array(used["probabilities"].to_pylist(), np.float64)
    groups, classes = _groups(done, ids), list(card.classes)
    figures = metrics.evaluate(
        truth, chances, classes, card.threshold, groups=groups, prevalence=done.prevalence
    ).replace_schema_metadata({key: str(value) for key, value in _metadata(done, facts).items()})
    _write(done.predictions, folder / "predictions.parquet")
    _write(figures, folder / "metrics.parquet")
    subgroups = _subgroups(done, ids, truth, chances, groups)
    if subgroups is not None:
        _write(subgroups, folder / "subgroups.parquet")
    page = html.Page(
        title=f"{facts['model']} on {facts['split']}",
        metrics=figures,
        classes=classes,
        labels=truth,
        probabilities=chances,
        threshold=card.threshold,
        threshold_source=card.threshold_source,
        groups=groups,
        temperature_source=None
        if card.temperature == 1
        else f"log loss on the validation part: {card.temperature:.4g}",
        plots=plots.draw(truth, chances, classes, card.threshold, folder / "plots", groups),
        history=_history(done.run),
        **_gallery(done, used),
        flow=_flow(done, len(used)),
        duplicates=_duplicates(done.rows),
        looks=done.looks,
        subgroups=None if subgroups is None else _shown(subgroups),
        facts={**_provenance(done, facts), **_without_shared(folder, done, ids, truth, chances)},
    )
    html.write(folder / "report.html", page)
    _complete_card(done, figures, facts)
    return figures


def _complete_card(done: Evaluated, figures: pa.Table, facts: Mapping[str, Any]) -> None:
    """The run's own test part belongs on its model's card."""
    trained = None if done.run is None else read_success(done.run)
    if trained is None or facts["split"] != "test" or facts["manifest_sha256"] != done.bundle.card.manifest_sha256:
        return
    card, training = done.bundle.card, training_of(trained)
    about = ModelFacts(card=card, training=training, metrics=figures, evaluated_on="the test part of its own data")
    write_model_card(done.bundle.folder, about)


def _temperature(value: float) -> str | None:
    return None if value == 1 else f"{value:.4g}, by the log loss on the validation part"


def _write(table: pa.Table, path: Path) -> None:
    with replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def _groups(done: Evaluated, ids: Sequence[str]) -> list[str]:
    """What counts as one in a bootstrap: a group of the manifest, or the sample."""
    return [group or sample_id for group, sample_id in zip(done.column("group", ids), ids, strict=True)]


def _metadata(done: Evaluated, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a comparison of models needs to know."""
    card = done.bundle.card
    cost = flops(card.architecture, len(card.classes), card.preprocess.image_size)
    return {**facts, "flops": cost, "classes": json.dumps(list(card.classes)), "threshold": card.threshold}


def _subgroups(
    done: Evaluated, ids: Sequence[str], truth: np.ndarray, chances: np.ndarray, groups: Sequence[str]
) -> pa.Table | None:
    card = done.bundle.card
    tables = [
        by_column(
            truth, chances, done.column(name, ids), list(card.classes), card.threshold, column=name, groups=groups
        )
        for name in done.by
    ]
    return pa.concat_tables(tables) if tables else None


def _shown(subgroups: pa.Table) -> pa.Table:
    """The figures of subgroups that a page has room for."""
    return subgroups.filter(pc.is_in(subgroups["metric"], pa.array(["auroc", "sensitivity", "specificity"])))


def _without_shared(
    folder: Path, done: Evaluated, ids: Sequence[str], truth: np.ndarray, chances: np.ndarray
) -> dict[str, str]:
    """Figures of the samples that the model was not trained with; their table, and lines for the report."""
    if done.shared is None:
        return {}
    _write(done.shared, folder / "shared.parquet")
    known = set(done.shared["sample_id"].to_pylist())
    own = np.array([sample_id not in known for sample_id in ids], bool)
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(done.shared["kind"].to_pylist()).items())
    said = {"samples that the model was trained with": f"{len(known)} ({kinds or 'none'})"}
    if own.all() or not own.any():
        return said
    kept = [sample_id for sample_id in ids if sample_id not in known]
    table = metrics.evaluate(
        truth[own],
        chances[own],
        list(done.bundle.card.classes),
        done.bundle.card.threshold,
        groups=_groups(done, kept),
        prevalence=done.prevalence,
    )
    _write(table, folder / "metrics-without-shared.parquet")
    shown = {row["metric"]: row for row in table.to_pylist() if row["metric"] in html.HEADLINE}
    return said | {f"{name} without them": _interval(row) for name, row in shown.items()}


def _interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f"not defined: {row['reason']}"
    interval = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{row['value']:.3f}{interval}, n = {row['n']}"


def _gallery(done: Evaluated, used: pa.Table) -> dict[str, list[Case]]:
    """The worst errors and the least certain cases, with pictures of what spoke for a tumour."""
    threshold = done.bundle.card.threshold
    rows = used.select(["sample_id", "label", "prediction", "probability"]).to_pylist()
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    worst = sorted(wrong, key=lambda row: -abs(row["probability"] - threshold))[:SHOWN]
    named = {row["sample_id"] for row in worst}
    others = [row for row in rows if row["sample_id"] not in named]
    uncertain = sorted(others, key=lambda row: abs(row["probability"] - threshold))[:SHOWN]
    pictures = _pictures(done, [row["sample_id"] for row in (*worst, *uncertain)])
    return {
        name: [Case(**row, picture=pictures.get(row["sample_id"])) for row in some]
        for name, some in (("worst", worst), ("uncertain", uncertain))
    }


def _pictures(done: Evaluated, sample_ids: Sequence[str]) -> dict[str, bytes]:
    wish = Wish(spec=done.bundle.card.preprocess)
    planes = planes_of(units_of(done.rows), sample_ids, wish)
    return dict(zip(planes, heatmaps.pictures(done.bundle, list(planes.values())), strict=True))


def _history(run: Path | None) -> list[dict[str, Any]] | None:
    path = None if run is None else run / "history.parquet"
    return pq.read_table(path, schema=HISTORY).to_pylist() if path is not None and path.is_file() else None


def _flow(done: Evaluated, used: int) -> dict[str, int]:
    """From the files seen to the samples used."""
    codes = Counter(code for code in done.predictions["error_code"].to_pylist() if code)
    unlabelled = done.rows["label"].null_count - sum(
        code is not None and label is None
        for code, label in zip(
            done.predictions["error_code"].to_pylist(), done.predictions["label"].to_pylist(), strict=True
        )
    )
    excluded = {**codes, **({"no label": unlabelled} if unlabelled else {})}
    return {
        "files seen": len(units_of(done.manifest)),
        "samples in them": len(done.manifest),
        "samples of this side": len(done.rows),
        **{f"{EXCLUDED}{reason}": count for reason, count in sorted(excluded.items())},
        "samples used": used,
    }


def _duplicates(rows: pa.Table) -> dict[str, int]:
    known = rows.filter(pc.is_valid(rows["sha256"]))
    groups = len(pc.unique(known["group"].drop_null()))
    return {
        "groups (patients, series, copies)": groups,
        "samples beyond one a group": len(known) - known["group"].null_count - groups,
        "byte-identical copies": len(known) - len(pc.unique(known["sha256"])),
    }


def _provenance(done: Evaluated, facts: Mapping[str, Any]) -> dict[str, str]:
    card = done.bundle.card
    known = {
        **facts,
        "threshold": f"{card.threshold:g} ({card.threshold_source})",
        "training manifest": card.manifest_sha256,
        "configuration": card.config_sha256,
        "seed": card.seed,
        "epoch": card.epoch,
        "image size": f"{card.preprocess.image_size} px",
        **versions(),
    }
    return {key.replace("_", " "): str(value) for key, value in known.items() if value is not None}
