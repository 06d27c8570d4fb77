"""From probabilities to calls; alone, so that scoring workers need no statistics library."""

import numpy as np


def predicted(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Class indices [N]: by the threshold on P(tumour) with two classes, the likeliest with more."""
    if probabilities.shape[1] > 2:
        return np.asarray(probabilities.argmax(1))
    return (tumour(probabilities) >= threshold).astype(np.int64)


def tumour(probabilities: np.ndarray) -> np.ndarray:
    """Probability of a tumour, float64 [N]: 1 − P(first class)."""
    return np.asarray(1 - probabilities[:, 0].astype(np.float64))
