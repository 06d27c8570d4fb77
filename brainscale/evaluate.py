"""A model on labelled samples: predictions, metrics, plots and a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from brainscale import metrics
from brainscale.bundle import Bundle, open_bundle
from brainscale.config import Config
from brainscale.engine import Options
from brainscale.errors import ManifestError
from brainscale.files import output_folder, refuse_strangers, versions, write_success
from brainscale.index import index, is_manifest, manifest_fingerprint, read_manifest
from brainscale.keys import read_key
from brainscale.predict import Scoring, predictions
from brainscale.reading import units_of
from brainscale.report import html, plots
from brainscale.schema import PREDICTIONS, SUCCESS
from brainscale.splits import SPLITS

SHOWN_ERRORS = 20


def evaluate(
    model: str,
    out: str | None = None,
    *,
    data: str | None = None,
    split: str | None = None,
    engine: str = "auto",
    workers: int = 1,
) -> dict[str, Any]:
    """Evaluate a model on one side of a split, or on a whole labelled source.

    Needs a connected Ray.

    Args:
        model: a RUN or a bundle folder.
        out: where to write; by default RUN/evaluation/SPLIT.
        data: a manifest or a source; by default the RUN's own manifest.
        split: train, val, test or all; by default test where there is one, else all.
        engine: auto, onnx or torch.
        workers: engines side by side.

    Returns:
        What `_SUCCESS.json` says, with `out` and the `metrics` by name.

    Raises:
        BrainscaleError: no model, no such split, no labels, or labels the model does not know.
    """
    bundle = open_bundle(model)
    manifest = _manifest(model, data, bundle)
    split, rows = choose_rows(manifest, split)
    labels = _labels(rows, bundle)
    folder = output_folder(out or Path(model) / "evaluation" / split)
    refuse_strangers(folder, {"predictions.parquet", "metrics.parquet", SUCCESS}, "evaluation")
    (folder / SUCCESS).unlink(missing_ok=True)
    table = predict(rows, bundle, engine, workers)
    facts = {
        "model": bundle.card.architecture,
        "run": Path(model).absolute().name,
        "split": split,
        "samples": len(rows),
        "errors": len(table) - table["error_code"].null_count,
        "parameters": bundle.card.parameters,
        "weights_sha256": bundle.card.weights_sha256,
        "samples_sha256": manifest_fingerprint(rows),
    }
    figures = write_results(folder, table, labels, bundle, facts)
    write_success(folder, facts)
    return {
        **facts,
        "out": str(folder),
        "metrics": {row["metric"]: row["value"] for row in figures.to_pylist()},
    }


def _manifest(model: str, data: str | None, bundle: Bundle) -> pa.Table:
    """The manifest to evaluate on; an indexed source gets the run's own splits, content by content."""
    own = Path(model) / "manifest.parquet"
    if data is None:
        if not own.is_file():
            raise ManifestError(f"{model} has no manifest of its own: say what to evaluate on with --data")
        return read_manifest(own)
    if is_manifest(data):
        return read_manifest(data)
    manifest = index([data], Config(data=bundle.card.data))
    if not own.is_file():
        return manifest
    run = read_manifest(own)
    side = dict(zip(run["sha256"].to_pylist(), run["split"].to_pylist(), strict=True))
    splits = pa.array([side.get(content) for content in manifest["sha256"].to_pylist()], pa.string())
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), splits)


def choose_rows(manifest: pa.Table, split: str | None) -> tuple[str, pa.Table]:
    """The rows of one side.

    Raises:
        ManifestError: no row stands on that side.
    """
    there = [side for side in SPLITS if pc.any(pc.equal(manifest["split"], side)).as_py()]
    split = split or ("test" if "test" in there else "all")
    if split == "all":
        return split, manifest
    if split not in there:
        raise ManifestError(f"no sample stands on side '{split}': there are {', '.join([*there, 'all'])}")
    return split, manifest.filter(pc.equal(manifest["split"], split))


def _labels(rows: pa.Table, bundle: Bundle) -> dict[str, int]:
    """sample_id → class index of the labelled rows."""
    classes = list(bundle.card.classes)
    pairs = zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True)
    known = {sample_id: label for sample_id, label in pairs if label is not None}
    if not known:
        raise ManifestError("no sample has a label: name the folders after classes, or use `brainscale score`")
    strange = sorted(set(known.values()) - set(classes))
    if strange:
        raise ManifestError(f"label '{strange[0]}' is no class of the model: known: {', '.join(classes)}")
    return {sample_id: classes.index(label) for sample_id, label in known.items()}


def predict(rows: pa.Table, bundle: Bundle, engine: str, workers: int) -> pa.Table:
    """Predictions of manifest rows, with their labels, sorted by sample_id."""
    options, key = Options(name=engine), read_key(None).secret
    scoring = Scoring(bundle=bundle, threshold=bundle.card.threshold, engine=options, workers=workers, key=key)
    scored = predictions(units_of(rows), scoring)
    table = pa.concat_tables(ray.get(scored.to_arrow_refs())).select(PREDICTIONS.names).sort_by("sample_id")
    gone = sorted(set(rows["sample_id"].to_pylist()) - set(table["sample_id"].to_pylist()))
    if gone:
        raise ManifestError(f"'{gone[0]}' is not in its file any more: index the source again")
    label = dict(zip(rows["sample_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    labels = pa.array([label[sample_id] for sample_id in table["sample_id"].to_pylist()], pa.string())
    return table.set_column(PREDICTIONS.get_field_index("label"), PREDICTIONS.field("label"), labels)


def write_results(
    folder: Path, table: pa.Table, labels: Mapping[str, int], bundle: Bundle, facts: Mapping[str, Any]
) -> pa.Table:
    """Write predictions, metrics, plots and the report; return the metrics.

    Raises:
        ManifestError: no labelled sample could be read.
    """
    used = table.filter(pc.and_(pc.is_null(table["error_code"]), pc.is_valid(table["label"])))
    if not len(used):
        raise ManifestError("no labelled sample could be read: `brainscale index` says why, file by file")
    truth = np.array([labels[sample_id] for sample_id in used["sample_id"].to_pylist()])
    probabilities = np.array(used["probabilities"].to_pylist(), np.float64)
    classes, threshold = list(bundle.card.classes), bundle.card.threshold
    figures = metrics.evaluate(truth, probabilities, classes, threshold)
    pq.write_table(table, folder / "predictions.parquet", compression="zstd")
    metadata = {key: str(value) for key, value in facts.items()}
    pq.write_table(figures.replace_schema_metadata(metadata), folder / "metrics.parquet")
    drawn = plots.draw(truth, probabilities, classes, threshold, folder / "plots")
    html.write(
        folder / "report.html",
        title=f"{facts['model']} on {facts['split']}",
        metrics=figures,
        plots=drawn,
        facts=_provenance(bundle, facts),
        worst=worst_errors(used),
    )
    return figures


def worst_errors(used: pa.Table) -> Sequence[dict[str, Any]]:
    """The wrong predictions, the surest first."""
    rows = used.select(["sample_id", "label", "prediction", "probability"]).to_pylist()
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    return sorted(wrong, key=lambda row: -abs(row["probability"] - 0.5))[:SHOWN_ERRORS]


def _provenance(bundle: Bundle, facts: Mapping[str, Any]) -> dict[str, str]:
    card = bundle.card
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
    return {key.replace("_", " "): str(value) for key, value in known.items()}
