"""From probabilities to calls; alone, so that scoring workers need no statistics library."""

import numpy as np

TINY = 1e-30  # a probability of 0 has no logarithm


def predicted_classes(probabilities: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Class indices [N]: by the threshold, one or [N], on P(tumour) with two classes, the likeliest with more."""
    if probabilities.shape[1] > 2:
        return np.asarray(probabilities.argmax(1))
    return (tumour_probability(probabilities) >= threshold).astype(np.int64)


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log p / T) in the input's type, [N, classes]: what calibration makes of an engine's probabilities."""
    if temperature == 1:
        return probabilities
    powers = np.log(np.clip(probabilities.astype(np.float64), TINY, 1)) / temperature
    powers = np.exp(powers - powers.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), probabilities.dtype)


def tumour_probability(probabilities: np.ndarray) -> np.ndarray:
    """Probability of a tumour, float64 [N]: 1 − P(first class)."""
    return np.asarray(1 - probabilities[:, 0].astype(np.float64))
