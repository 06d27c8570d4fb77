"""Features of a network that is not trained here, with a logistic regression."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from brainscale.config.data_sections import PreprocessConfig
from brainscale.config.sections import Config
from brainscale.errors import UsageError
from brainscale.evaluation.baselines.task import BaselineTask, Floats, read_planes
from brainscale.hashing import file_sha256, fingerprint
from brainscale.storage.local import make_folder, replacing

SIDE = 224
"""Side of the planes, pixels: the ImageNet weights were trained at about this size."""
FITS = ("squash", "pad", "head", "head_pad")
"""Values of `data.fit`: there is a regression for each, and their probabilities are averaged."""
PENALTY = 1e-3
"""C of the regressions: it is strong, since there are more features than samples."""
ITERATIONS = 1000
SETTINGS = {"image_size": SIDE, "fits": list(FITS), "C": PENALTY}


def predict_from_frozen_features(task: BaselineTask) -> Floats:
    """Return the mean probabilities of a regression (L2) on standardised features for each of `FITS`.

    The features are the mean and the maximum over space of each channel of the network's last feature map. The network
    and its weights are `model.name` and `model.weights` of the configuration. Nothing is chosen.

    Raises:
        UsageError: the configuration has no weights.
    """
    from sklearn.linear_model import LogisticRegression  # here: it loads for seconds
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights = describe_weights(task.config)
    probabilities = np.zeros((len(task.predict), len(task.classes)))
    for fit in FITS:
        preprocess = task.config.data.preprocess.model_copy(update={"image_size": SIDE, "fit": fit})
        features = _features(task, preprocess, weights).astype(np.float64)
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=ITERATIONS))
        regression.fit(features[task.learn], task.labels[task.learn])
        probabilities[:, regression.classes_] += regression.predict_proba(features[task.predict]) / len(FITS)
    return probabilities


def describe_weights(config: Config) -> str:
    """Return the hash of the weights file, or the name of weights that torchvision knows.

    Raises:
        UsageError: there are none.
    """
    weights = config.model.weights
    if weights is None:
        raise UsageError(
            "frozen features need a network that was trained: set model.weights to a .safetensors file or to imagenet"
        )
    if weights == "imagenet":
        return weights
    if not Path(weights).is_file():
        raise UsageError(f"no weights file {weights}: give the path of a .safetensors file")
    return file_sha256(Path(weights))


def _features(task: BaselineTask, preprocess: PreprocessConfig, weights: str) -> np.ndarray:
    """Return the features of all rows, float32 [N, D], from the cache where they are there."""
    path = None
    if task.cache is not None:
        facts = [task.config.model.name, weights, preprocess.facts(), _contents(task.rows)]
        path = make_folder(task.cache) / f"features-{fingerprint(facts)}.safetensors"
        if path.is_file():
            return np.asarray(load(path.read_bytes())["features"])
    from brainscale.models.pooled_features import pool_features  # here: it needs torch

    planes = read_planes(task.rows, preprocess, task.config)
    features = pool_features(planes, architecture=task.config.model.name, weights=task.config.model.weights)
    if path is not None:
        with replacing(path) as temporary:
            temporary.write_bytes(save({"features": features}))
    return features


def _contents(rows: pa.Table) -> list[dict[str, object]]:
    """Return what decides the planes of rows, besides the preprocessing."""
    contents: list[dict[str, object]] = rows.select(["sample_id", "sha256", "window_low", "window_high"]).to_pylist()
    return contents
