"""The score that heatmaps explain, log(P / (1 − P)), and what stands in a plane where something is taken out of it."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from brainscale.models.brainmrnet import BrainMRNet
from brainscale.models.engines import Engine
from brainscale.models.fast_brainmrnet import run_fast
from brainscale.models.normalisation import normalise

BATCH = 16
"""Number of planes in a batch."""
BLUR = 1 / 8
"""Standard deviation of the blur that takes the structure out of a plane, as a fraction of its side."""

Score = Callable[[np.ndarray], np.ndarray]
"""Returns log-odds, float64 [N], for planes, uint8 [N, S, S]."""


def log_odds(logits: Tensor, target: int | None = None) -> Tensor:
    """Return log(P / (1 − P)) of a tumour, or of the class `target`, for logits [N, classes]; heatmaps explain it."""
    index = target or 0
    others = torch.cat([logits[:, :index], logits[:, index + 1 :]], 1).logsumexp(1)
    return others - logits[:, index] if target is None else logits[:, index] - others


def score_of_network(network: nn.Module, target: int | None = None) -> Score:
    """Return the score of a tumour, or of one class, by a network in evaluation mode, on the device of its parameters.

    Args:
        network: takes normalised planes and returns logits.
        target: index of a class; None for a tumour.
    """

    def run(batch: Tensor) -> Tensor:
        logits: Tensor = run_fast(network, batch)[0] if isinstance(network, BrainMRNet) else network(normalise(batch))
        return logits

    def score(planes: np.ndarray) -> np.ndarray:
        device = next(network.parameters()).device
        with torch.no_grad():
            batches = torch.from_numpy(np.array(planes)).to(device).split(BATCH)
            scores = torch.cat([log_odds(run(batch), target) for batch in batches])
        return np.asarray(scores.double().cpu().numpy())

    return score


def score_of_engine(engine: Engine) -> Score:
    """Return the score of a tumour by an engine, which is faster than the network itself on a CPU."""

    def score(planes: np.ndarray) -> np.ndarray:
        probabilities = np.maximum(engine(planes).probabilities.astype(np.float64), np.finfo(np.float32).tiny)
        return np.asarray(np.log(probabilities[:, 1:].sum(1)) - np.log(probabilities[:, 0]))

    return score


def take_structure_out(plane: np.ndarray) -> np.ndarray:
    """Return a plane, uint8 [S, S], blurred so much that only the outline of the head is left.

    A black or grey square would be a structure of its own, with edges that a network has never seen.
    """
    return np.asarray(ndimage.gaussian_filter(plane, BLUR * plane.shape[0], mode="nearest", output=np.float32)).astype(
        np.uint8
    )
