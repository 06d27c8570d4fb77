"""A baseline that sees no picture: file size, width, height and pixel mode."""

from brainscale.dataset.header_control import header_features, predict_with_forest
from brainscale.evaluation.baselines.task import BaselineTask, Floats


def predict_from_headers(task: BaselineTask) -> Floats:
    """Return probabilities of a random forest, the same as that of the header-only control."""
    headers = header_features(task.rows)
    return predict_with_forest(headers, task.labels, task.learn, task.predict, len(task.classes))
