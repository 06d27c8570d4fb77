"""Fit what the novelty of a sample is computed from, after training: distances from the training samples.

Features are standardised, reduced to their principal components, and made comparable by the covariance within the
classes, shrunk after Ledoit and Wolf ("A well-conditioned estimator for large-dimensional covariance matrices", 2004),
because a run may have fewer training samples than features. `benchmarks/novelty.py` compares this with other choices.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.models.bundle import Bundle
from brainscale.models.novelty import NoveltyReference
from brainscale.scoring.on_ray import extract_features
from brainscale.seeds import derive

MAX_SAMPLES = 5000
"""Most samples of each split that are used: a covariance of 64 components and 1,000 quantiles need no more."""
COMPONENTS = 64
QUANTILES = 1000
MIN_VALIDATION = 20
"""Fewest validation samples: with fewer, one of 20 usual samples or more would seem more unusual than all of them."""
NEAREST = 1e-3
"""Smallest relative gap between two distances: engines differ by less than a thousandth of it."""


@dataclass(frozen=True, kw_only=True)
class NoveltyChoice:
    """What novelty is computed from, and what it rests on.

    Attributes:
        reference: the numbers; None where there is none.
        source: method and numbers of samples, or why there is none.
    """

    reference: NoveltyReference | None
    source: str


def choose_novelty(bundle: Bundle, manifest: pa.Table) -> NoveltyChoice:
    """Return the novelty of a model from its training and validation samples; needs a connected Ray.

    Args:
        bundle: the model.
        manifest: manifest of the run.
    """
    train, val = (_draw(manifest, split, bundle.info.seed) for split in ("train", "val"))
    if len(val) < MIN_VALIDATION:
        return NoveltyChoice(
            reference=None, source=f"none: it needs {MIN_VALIDATION} validation samples, and there are {len(val)}"
        )
    ids, features = extract_features(pa.concat_tables([train, val]), bundle)
    label_of = dict(zip(train["sample_id"].to_pylist(), train["label"].to_pylist(), strict=True))
    is_train = np.array([sample_id in label_of for sample_id in ids], bool)
    labels = np.array([label_of[sample_id] for sample_id in ids if sample_id in label_of])
    if not np.isfinite(features).all():
        return NoveltyChoice(reference=None, source="none: features of training samples are not finite")
    reference = fit_novelty(features[is_train], labels, features[~is_train])
    if reference is None:
        return NoveltyChoice(reference=None, source="none: the network has the same features for every sample")
    source = (
        f"Mahalanobis distance in the network's features to the classes of {is_train.sum():,} training samples, "
        f"beside those of {(~is_train).sum():,} validation samples"
    )
    return NoveltyChoice(reference=reference, source=source)


def fit_novelty(train: np.ndarray, labels: np.ndarray, val: np.ndarray) -> NoveltyReference | None:
    """Return what novelty is computed from; None where the features do not vary.

    Args:
        train: features of training samples, float32 [N, D].
        labels: their classes, [N].
        val: features of validation samples, float32 [M, D].
    """
    train = train.astype(np.float64)
    shift, spread = train.mean(0), train.std(0)
    varies = spread > np.finfo(np.float32).eps * max(np.abs(train).max(), np.finfo(np.float32).tiny)
    if not varies.any():
        return None
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0.0)
    standard = (train - shift) * scale
    components = _principal_components(standard)
    coordinates = standard @ components
    classes = np.unique(labels)
    means = np.stack([coordinates[labels == name].mean(0) for name in classes])
    whitening = _whitening(coordinates - means[np.searchsorted(classes, labels)])
    arrays = (shift, scale[:, None] * (components @ whitening), means @ whitening)
    nothing = np.empty(0, np.float32)
    reference = NoveltyReference(**_named(*arrays, nothing, nothing))
    distances = reference.measure_distances(val)
    return NoveltyReference(**_named(*arrays, *calibrate(distances))) if np.ptp(distances) else None


def calibrate(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rising distances, and for each the share of samples that are nearer, from 0 to 1.

    Args:
        distances: distances of validation samples, not all equal. Those that are nearly equal count as one with their
            mean share, so that novelty has no jumps.
    """
    ordered = np.sort(distances.astype(np.float64))
    if len(ordered) > QUANTILES:
        ordered = np.quantile(ordered, np.linspace(0, 1, QUANTILES))
    shares = np.linspace(0, 1, len(ordered))
    starts = [0]
    for i, distance in enumerate(ordered):
        if distance - ordered[starts[-1]] > NEAREST * distance:
            starts.append(i)
    counts = np.diff([*starts, len(ordered)])
    merged = np.add.reduceat(shares, starts) / counts
    merged[0], merged[-1] = 0, 1
    return ordered[starts], merged


def _draw(manifest: pa.Table, split: str, seed: int) -> pa.Table:
    """Return rows of a split, at most `MAX_SAMPLES` of them."""
    rows = manifest.filter(pc.equal(manifest["split"], split))
    if len(rows) <= MAX_SAMPLES:
        return rows
    chosen = np.random.default_rng(derive(seed, "novelty", split)).choice(len(rows), MAX_SAMPLES, replace=False)
    return rows.take(pa.array(np.sort(chosen)))


def _principal_components(standard: np.ndarray) -> np.ndarray:
    """Return the principal components of standardised features [N, D], with a variance, [D, K]."""
    _, lengths, axes = np.linalg.svd(standard, full_matrices=False)
    count = min(COMPONENTS, int((lengths > 1e-6 * lengths[0]).sum()))
    return np.asarray(axes[:count].T)


def _whitening(residuals: np.ndarray) -> np.ndarray:
    """Return the matrix [K, K] after which residuals [N, K] have unit covariance, as far as shrinkage allows."""
    from sklearn.covariance import ledoit_wolf  # here: it loads for seconds

    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    variances, axes = np.linalg.eigh(covariance)
    return np.asarray(axes / np.sqrt(np.maximum(variances, 1e-12 * variances[-1])))


def _named(*arrays: np.ndarray) -> dict[str, np.ndarray]:
    names = ("shift", "projection", "means", "distances", "shares")
    return {name: np.asarray(array, np.float32) for name, array in zip(names, arrays, strict=True)}
