"""From probabilities to predicted classes; alone, so that scoring workers need no statistics library."""

import numpy as np

TINY = 1e-30  # a probability of 0 has no logarithm


def predicted_classes(probabilities: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Return class indices [n]: where P(tumour) reaches the threshold, the most probable kind of tumour, else class 0.

    Args:
        probabilities: float [n, classes]; the first class is the one without a tumour.
        threshold: one for all samples, or one for each [n].
    """
    has_tumour = tumour_probability(probabilities) >= threshold
    return np.where(has_tumour, 1 + probabilities[:, 1:].argmax(1), 0).astype(np.int64)


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return calibrated probabilities, softmax(log p / T): [n, classes], in the type of the input."""
    if temperature == 1:
        return probabilities
    powers = np.log(np.clip(probabilities.astype(np.float64), TINY, 1)) / temperature
    powers = np.exp(powers - powers.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), probabilities.dtype)


def tumour_probability(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of a tumour, 1 − P(first class): float64 [n]."""
    return np.asarray(1 - probabilities[:, 0].astype(np.float64))
