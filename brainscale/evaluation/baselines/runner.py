"""Run a baseline on a manifest with splits, and leave what an evaluation of a network leaves."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from brainscale.config.explain import did_you_mean
from brainscale.config.sections import Config
from brainscale.dataset.manifest import MANIFEST_FILE, manifest_fingerprint
from brainscale.errors import OutputError, UsageError
from brainscale.evaluation.baselines import frozen_features, given_predictions, hog_svm
from brainscale.evaluation.baselines.fitting import fit_baseline
from brainscale.evaluation.baselines.header_only import predict_from_headers
from brainscale.evaluation.baselines.outputs import write_predictions
from brainscale.evaluation.baselines.task import Baseline
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.hashing import fingerprint
from brainscale.scoring.predictions import make_predictions
from brainscale.storage.local import make_folder, read_success, refuse_other_files, write_success
from brainscale.storage.tables import read_table

BASELINES: Mapping[str, Baseline] = {
    "header_only": predict_from_headers,
    "hog_svm": hog_svm.predict_from_gradients,
    "frozen_features": frozen_features.predict_from_frozen_features,
    "given_predictions": given_predictions.predict_as_given,
}
"""Name → baseline."""
LEARNS_NOTHING = frozenset({"given_predictions"})
"""Baselines that do not look at the training part."""


@dataclass(frozen=True, kw_only=True)
class BaselineResult:
    """A baseline on the test split of a manifest.

    Attributes:
        path: folder with predictions, metrics and manifest, as an evaluation has them.
        name: name of the baseline.
        settings: what it was made with.
        learned_from: the splits that it learned from.
        threshold: threshold of the probability of a tumour.
        threshold_source: how the threshold was chosen.
        temperature: number by which log-probabilities were divided.
        seconds: time that it took.
        config_sha256: fingerprint of the configuration.
        manifest_sha256: fingerprint of the manifest.
        predictions: table of schema PREDICTIONS, one row for each test sample.
        metrics: table of schema METRICS.
    """

    path: str
    name: str
    settings: Mapping[str, Any]
    learned_from: tuple[str, ...]
    threshold: float
    threshold_source: str
    temperature: float
    seconds: float
    config_sha256: str
    manifest_sha256: str
    predictions: pa.Table
    metrics: pa.Table

    def to_json(self) -> dict[str, Any]:
        """Return what `_SUCCESS.json` says: all but the folder and the tables."""
        return {key: value for key, value in vars(self).items() if key not in ("path", "predictions", "metrics")}


def run_baseline(
    name: str, manifest: pa.Table, config: Config, out: str | Path, *, cache: str | Path | None = None
) -> BaselineResult:
    """Fit a baseline on the training part of a manifest and predict its test split; needs no Ray.

    The training part is the splits train and val together, unless the configuration chooses a threshold or a
    temperature on validation: then it is train alone, and they are chosen on the predictions of val. A baseline makes
    its own choices in folds, by group, of the training part. The same arguments give the same predictions, bit by bit,
    on the same kind of processor.

    Args:
        name: header_only, hog_svm, frozen_features or given_predictions.
        manifest: samples with labels, groups and splits.
        config: classes, preprocessing, limits and operating point; for frozen features, the network and its weights;
            for given predictions, their table as the weights.
        out: local folder to write to; one that holds this result already is read, not computed again.
        cache: local folder for features, which other manifests of the same samples can use.

    Raises:
        UsageError: there is no such baseline, or what it needs is missing.
        ManifestError: the manifest lacks splits or labels, or its files changed.
        OutputError: the folder holds something else.
    """
    if name not in BASELINES:
        raise UsageError(f"unknown baseline '{name}'{did_you_mean(name, BASELINES)}")
    folder = make_folder(out)
    facts: dict[str, Any] = {
        "name": name,
        "settings": _settings(name, config),
        "config_sha256": config.fingerprint,
        "manifest_sha256": manifest_fingerprint(manifest),
    }
    if (finished := read_success(folder)) is not None:
        return _read_result(folder, finished, facts)
    refuse_other_files(folder, {PREDICTIONS_FILE, METRICS_FILE, MANIFEST_FILE}, "baseline")
    start = time.monotonic()
    fitted = fit_baseline(
        BASELINES[name], manifest, config, None if cache is None else Path(cache), learns=name not in LEARNS_NOTHING
    )
    model, point = fingerprint([facts, fitted.learned_from]), fitted.operating_point
    predictions = make_predictions(
        fitted.test,
        np.ones(len(fitted.test), bool),
        fitted.probabilities,
        point.threshold,
        list(config.data.classes),
        model,
    )
    metrics = write_predictions(folder, predictions, manifest, name=name, config=config, threshold=point.threshold)
    result = BaselineResult(
        path=str(folder),
        learned_from=fitted.learned_from,
        threshold=point.threshold,
        threshold_source=point.threshold_source,
        temperature=fitted.temperature,
        seconds=round(time.monotonic() - start, 3),
        predictions=predictions,
        metrics=metrics,
        **facts,
    )
    write_success(folder, result.to_json(), "baseline")
    return result


def _settings(name: str, config: Config) -> dict[str, Any]:
    """Return what a baseline is made with, besides the data and the rest of the configuration.

    Raises:
        UsageError: frozen features have no weights, or given predictions no table.
    """
    if name == "hog_svm":
        return hog_svm.SETTINGS
    if name == "frozen_features":
        weights = frozen_features.describe_weights(config)
        return {**frozen_features.SETTINGS, "network": config.model.name, "weights": weights}
    if name == "given_predictions":
        return {"table": given_predictions.describe_table(config)}
    return {}


def _read_result(folder: Path, finished: Mapping[str, Any], facts: Mapping[str, Any]) -> BaselineResult:
    """Return the result that a folder holds.

    Raises:
        OutputError: it is another one.
    """
    if other := next((key for key, value in facts.items() if finished.get(key) != value), None):
        raise OutputError(f"{folder} holds a baseline with another {other}: choose a new folder")
    known = {key: finished[key] for key in BaselineResult.__annotations__ if key in finished}
    return BaselineResult(
        **{**known, "learned_from": tuple(known["learned_from"])},
        path=str(folder),
        predictions=read_table(folder / PREDICTIONS_FILE, "predictions"),
        metrics=read_table(folder / METRICS_FILE, "metrics"),
    )
