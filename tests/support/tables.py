"""Manifests, predictions and evaluations made on the spot, without Ray or images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from brainscale.dataset.manifest import manifest_fingerprint, write_manifest
from brainscale.schema import MANIFEST, PREDICTIONS
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from brainscale.storage.local import write_success
from brainscale.storage.tables import write_table
from tests.support.samples import CLASSES


def digest(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def manifest(labels: Sequence[int | None] | np.ndarray, **columns: Sequence[Any]) -> pa.Table:
    """A row for each label, each its own group, and whatever columns say."""
    rows = [
        {
            "sample_id": f"{i:04d}.png",
            "uri": f"/scans/{i:04d}.png",
            "sha256": digest(i),
            "group": digest(i)[:16],
            "label": None if label is None else CLASSES[label],
            **{name: values[i] for name, values in columns.items()},
        }
        for i, label in enumerate(labels)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def predictions(rows: pa.Table, scores: np.ndarray, threshold: float = 0.5) -> pa.Table:
    """Predictions of a manifest's rows; a row in error has none."""
    table = [
        {
            **{
                name: row[name]
                for name in ("sample_id", "uri", "sha256", "scan", "patient", "empty", "label", "error_code")
            },
            "model": "a" * 64,
            **({} if row["error_code"] else prediction(float(score), threshold)),
        }
        for row, score in zip(rows.to_pylist(), scores, strict=True)
    ]
    return pa.Table.from_pylist(table, schema=PREDICTIONS)


def prediction(score: float, threshold: float) -> dict[str, Any]:
    """The columns that scoring fills."""
    probabilities = [1 - score, score]
    return {"prediction": CLASSES[score >= threshold], "probability": score, "probabilities": probabilities}


def evaluation(folder: Path, table: pa.Table, predicted: pa.Table, threshold: float = 0.5) -> None:
    """A folder as `evaluate` leaves it, but for what people look at."""
    folder.mkdir(parents=True)
    metrics = measure(LabelledProbabilities.from_predictions(predicted, CLASSES, threshold=threshold))
    facts = {
        "model": "brainmrnet",
        "run": folder.name,
        "unit": "slice",
        "samples_sha256": manifest_fingerprint(table),
        "classes": '["no_tumour", "tumour"]',
        "threshold": str(threshold),
        "weights_sha256": "a" * 64,
        "parameters": "1000",
        "flops": "1000000",
        "images_per_second": "1.5",
        "model_edited": "False",
    }
    write_manifest(table, folder / "manifest.parquet")
    write_table(predicted, folder / "predictions.parquet", "predictions")
    write_table(metrics.replace_schema_metadata(facts), folder / "metrics.parquet", "metrics")
    write_success(folder, facts)
