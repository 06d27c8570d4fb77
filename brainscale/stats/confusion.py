"""Samples by their class and their predicted class."""

import numpy as np
import pyarrow as pa

from brainscale.schema import CONFUSION
from brainscale.stats.labelled import LabelledProbabilities


def confusion_matrix(samples: LabelledProbabilities) -> np.ndarray:
    """Return counts [true class, predicted class]."""
    count = len(samples.classes)
    cells = np.bincount(samples.labels * count + samples.predicted, minlength=count * count)
    return cells.reshape(count, count)


def confusion_table(samples: LabelledProbabilities) -> pa.Table:
    """Return the confusion matrix as a table of schema CONFUSION, a row for each label and prediction."""
    rows = [
        {"label": samples.classes[label], "prediction": samples.classes[predicted], "samples": int(count)}
        for (label, predicted), count in np.ndenumerate(confusion_matrix(samples))
    ]
    return pa.Table.from_pylist(rows, schema=CONFUSION)
