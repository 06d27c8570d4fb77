"""Heatmaps from integrated gradients (Sundararajan, Taly and Yan, ICML 2017), for any network."""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from brainscale.models.explained_score import BATCH, log_odds
from brainscale.models.normalisation import normalise

STEPS = 8
"""Points on the path from the filling to the plane; 4 to 32 give heatmaps of the same faithfulness."""
SMOOTHING = 1 / 24
"""Standard deviation of the blur of the map, as a fraction of its side: single pixels say little."""


def integrated_gradients(
    network: nn.Module, plane: Tensor, filling: Tensor, target: int | None = None, steps: int = STEPS
) -> Tensor:
    """Return what each pixel adds to the score on the way from the filling to the plane, float32 [S, S].

    Its sum is the difference of the two scores, up to the error of the sum over steps.

    Args:
        network: a network in evaluation mode.
        plane: float32 [S, S].
        filling: float32 [S, S], the baseline.
        target: index of a class; None for a tumour.
        steps: number of points on the path.
    """
    shares = (torch.arange(steps, device=plane.device) + 0.5) / steps
    total = torch.zeros_like(plane)
    with torch.enable_grad():
        for some in shares.split(BATCH):
            points = (filling + some[:, None, None] * (plane - filling)).requires_grad_()
            (gradients,) = torch.autograd.grad(log_odds(network(normalise(points)), target).sum(), points)
            total += gradients.sum(0)
    return total / steps * (plane - filling)


def smooth_attributions(attributions: np.ndarray) -> np.ndarray:
    """Return attributions [S, S] averaged over a small neighbourhood."""
    return np.asarray(ndimage.gaussian_filter(attributions, SMOOTHING * attributions.shape[0], mode="nearest"))
