"""Evaluations without Ray: a run folder made on the spot, and made-up predictions in place of the engines."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import brainscale as bs
from brainscale.config.sections import Config
from brainscale.dataset.manifest import manifest_fingerprint, write_manifest
from brainscale.models.bundle import MODEL_JSON, Bundle, write_model_info
from brainscale.storage.local import write_success
from brainscale.training.run_folder import Run
from tests.support.tables import predictions


def make_run(folder: Path, bundle: Bundle, scans: Path, *, val: float = 0.2, test: float = 0.3) -> Path:
    """A finished run on some scans, as far as an evaluation reads it."""
    manifest = bs.split(bs.index(scans, config="brainmrnet"), val=val, test=test, seed=1)
    config = Config(data=bundle.info.data)
    shutil.copytree(bundle.folder, folder / "model")
    facts = json.loads((folder / "model" / MODEL_JSON).read_text())
    hashes = ("weights_sha256", "onnx_sha256", "model_sha256", "format")
    known = {name: value for name, value in facts.items() if name not in hashes}
    fingerprint = manifest_fingerprint(manifest)
    info = write_model_info(folder / "model", {**known, "manifest_sha256": fingerprint})
    write_manifest(manifest, folder / "manifest.parquet")
    (folder / "config.yaml").write_text(config.to_yaml())
    run = Run(
        path=str(folder),
        samples={"train": 30, "val": 12, "test": 18},
        left_out={},
        epochs=1,
        best_epoch=1,
        best_val_loss=0.5,
        threshold=info.threshold,
        threshold_source=info.threshold_source,
        weights_sha256=info.weights_sha256,
        manifest_sha256=fingerprint,
        config_sha256=config.fingerprint,
    )
    write_success(folder, {name: value for name, value in asdict(run).items() if name != "path"}, "run")
    return folder


def predict_without_ray(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let evaluations predict from the samples' names; return a list that gets the number of samples of each."""
    evaluated: list[int] = []

    def predict(rows: pa.Table, bundle: Bundle, *arguments: object) -> pa.Table:
        evaluated.append(len(rows))
        is_tumour = np.array([label == "tumour" for label in rows["label"].to_pylist()])
        scores = np.random.default_rng(0).uniform(0, 0.7, len(rows)) + 0.25 * is_tumour
        return predictions(rows, scores, bundle.info.threshold).sort_by("sample_id")

    monkeypatch.setattr("brainscale.evaluation.evaluator.predict_rows", predict)
    return evaluated


def edit_threshold(model: Path, threshold: float) -> None:
    """Change the threshold of slices in a model.json by hand."""
    facts = json.loads((model / MODEL_JSON).read_text())
    facts["operating_points"]["slice"]["threshold"] = threshold
    (model / MODEL_JSON).write_text(json.dumps(facts))
