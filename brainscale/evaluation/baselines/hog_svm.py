"""Histograms of oriented gradients with a support vector machine (Dalal and Triggs, CVPR 2005)."""

import numpy as np

from brainscale.errors import UsageError
from brainscale.evaluation.baselines.task import BaselineTask, Floats, read_planes

SIDE = 128
"""Side of the planes, pixels."""
CELL, BLOCK, ORIENTATIONS = 16, 2, 9
"""Side of a cell in pixels, side of a block in cells, and bins of a histogram: 1,764 features of a plane."""
COSTS = (0.1, 1.0, 10.0, 100.0)
"""Values of the machine's C, of which the inner folds choose one."""
SETTINGS = {
    "image_size": SIDE,
    "pixels_per_cell": CELL,
    "cells_per_block": BLOCK,
    "orientations": ORIENTATIONS,
    "kernel": "rbf",
    "costs": list(COSTS),
}


def predict_from_gradients(task: BaselineTask) -> Floats:
    """Return probabilities of a machine with a Gaussian kernel, calibrated by Platt's sigmoid.

    Its C is the one with the highest AUROC in the inner folds (with more than two classes, the highest balanced
    accuracy), of equals the lowest. The sigmoid is fitted to the decisions of the same folds. Both see the samples to
    learn from only.

    Raises:
        UsageError: scikit-image is not installed.
        ManifestError: a class has fewer than two groups to learn from.
    """
    from sklearn.calibration import CalibratedClassifierCV  # here: it loads for seconds
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    folds = task.inner_folds()
    preprocess = task.config.data.preprocess.model_copy(update={"image_size": SIDE})
    features = _gradient_histograms(read_planes(task.rows, preprocess, task.config))
    learnt, labels = features[task.learn], task.labels[task.learn]
    machine = make_pipeline(StandardScaler(), SVC(kernel="rbf", gamma="scale"))
    scoring = "roc_auc" if len(task.classes) == 2 else "balanced_accuracy"
    search = GridSearchCV(machine, {"svc__C": COSTS}, scoring=scoring, cv=folds, refit=False).fit(learnt, labels)
    machine.set_params(**search.best_params_)
    calibrated = CalibratedClassifierCV(machine, method="sigmoid", cv=folds, ensemble=False).fit(learnt, labels)
    probabilities = np.zeros((len(task.predict), len(task.classes)))
    probabilities[:, calibrated.classes_] = calibrated.predict_proba(features[task.predict])
    return probabilities


def _gradient_histograms(planes: np.ndarray) -> np.ndarray:
    """Return the features of planes, uint8 [N, S, S]: float64 [N, D]."""
    try:
        from skimage.feature import hog
    except ImportError:
        raise UsageError(
            "the baseline hog_svm needs scikit-image: install it with `pip install brainscale[results]`"
        ) from None
    cell, block = (CELL, CELL), (BLOCK, BLOCK)
    return np.stack([hog(plane, ORIENTATIONS, cell, block, block_norm="L2-Hys") for plane in planes])
