"""Write predictions that no network of the registry made, so that they can be combined and compared like its own."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.manifest import MANIFEST_FILE, manifest_fingerprint, write_manifest
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import measure
from brainscale.storage.tables import write_table


def write_predictions(
    folder: Path, predictions: pa.Table, manifest: pa.Table, *, name: str, config: Config, threshold: float
) -> pa.Table:
    """Write predictions, their metrics and the manifest, with what `compare` and a cross-validation read.

    The caller writes `_SUCCESS.json`. No time is in these files: the same predictions give the same bytes.

    Args:
        folder: where to write.
        predictions: table of schema PREDICTIONS.
        manifest: all samples of the data; those that were predicted are among them.
        name: name of what predicted.
        config: its classes.
        threshold: threshold of the probability of a tumour.

    Returns:
        The metrics, of schema METRICS.
    """
    classes = list(config.data.classes)
    samples = LabelledProbabilities.from_predictions(predictions, classes, threshold=threshold, groups=manifest)
    rows = manifest.filter(pc.is_in(manifest["sample_id"], predictions["sample_id"].combine_chunks()))
    metadata = {
        "model": name,
        "run": folder.name,
        "unit": "slice",
        "classes": json.dumps(classes),
        "threshold": str(threshold),
        "samples_sha256": manifest_fingerprint(rows),
        "weights_sha256": predictions["model"][0].as_py(),
        "model_edited": "False",
        "parameters": "None",
        "flops": "None",
        "images_per_second": "None",
    }
    metrics = measure(samples).replace_schema_metadata(metadata)
    write_manifest(manifest, folder / MANIFEST_FILE)
    write_table(predictions, folder / PREDICTIONS_FILE, "predictions")
    write_table(metrics, folder / METRICS_FILE, "metrics")
    return metrics
