"""How unusual a sample is for a model: its distance from the training samples, beside those of validation samples.

The features are the logarithms of the standard deviations, over space, of the channels of the network's first stage:
which textures a picture has, and how strong they are. The distance is the length of what remains of them outside the
principal components of the training samples (Jackson and Mudholkar, "Control Procedures for Residuals Associated With
Principal Component Analysis", Technometrics 21, 1979; for neural networks Wang et al., "ViM", CVPR 2022): of the
relations between features, the training samples fix those that hold in all of them, and unusual samples break them.

What this module reads is numbers only, and it needs no torch. `models.novelty_fit` chooses them.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from brainscale.errors import BundleError
from brainscale.storage.local import replacing

UNUSUAL = 0.99
"""Novelty from which on a sample is called unusual: 99 % of the validation samples are more usual."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoveltyReference:
    """What the novelty of a sample is computed from; float32 arrays.

    Attributes:
        shift: value of each feature that becomes 0, [D].
        projection: from shifted features to their coordinates outside the principal components, [D, K].
        distances: distances of validation samples, rising, [Q].
        shares: share of the validation samples that are nearer, from 0 to 1, for each of these distances, [Q].
    """

    shift: np.ndarray
    projection: np.ndarray
    distances: np.ndarray
    shares: np.ndarray

    def measure_distances(self, features: np.ndarray) -> np.ndarray:
        """Return the distance of each sample from the training samples, float32 [N], for features [N, D].

        Each row is computed alone, so its bits do not depend on the others.
        """
        shifted = (features.astype(np.float32) - self.shift)[:, None, :]
        coordinates = np.matmul(shifted, self.projection)[:, 0]
        return np.asarray(np.sqrt((coordinates**2).sum(1)), np.float32)

    def measure(self, features: np.ndarray) -> np.ndarray:
        """Return the novelty of each sample, float32 [N] in 0..1: the share of validation samples that are nearer.

        Between two validation samples it is interpolated, so that a rounding error in a distance stays one.
        """
        distances = self.measure_distances(features)
        return np.asarray(np.interp(distances, self.distances, self.shares), np.float32)


def write_novelty(reference: NoveltyReference, path: Path) -> None:
    """Write a reference as a safetensors file, whole or not at all."""
    arrays = {field.name: np.ascontiguousarray(getattr(reference, field.name)) for field in fields(reference)}
    with replacing(path) as temporary:
        temporary.write_bytes(save(arrays))


def read_novelty(path: Path) -> NoveltyReference:
    """Read a reference.

    Raises:
        BundleError: the file does not hold one.
    """
    try:
        return NoveltyReference(**load(path.read_bytes()))
    except (OSError, SafetensorError, TypeError) as error:
        raise BundleError(f"{path} cannot be read ({error}): copy the whole model folder again") from None


def count_unusual(novelty: np.ndarray) -> int:
    """Return how many samples are unusual; NaN, for samples without a novelty, is not."""
    return int((novelty >= np.float32(UNUSUAL)).sum())


def describe_unusual(unusual: int, samples: int) -> str:
    """Return how many samples are unusual, in one sentence."""
    which = "sample is" if samples == 1 else "samples are"
    first = "look at them first" if unusual != 1 else "look at it first"
    return (
        f"{unusual:,} of {samples:,} {which} more unusual than 99 % of the validation samples"
        f"{'; ' + first if unusual else ''}."
    )
