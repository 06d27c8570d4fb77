"""Plain words for the figures of a report."""

from brainscale.stats.calibration import ECE_BINS

METRICS = {
    "accuracy": {"name": "Accuracy", "about": "share of all samples called rightly"},
    "balanced_accuracy": {"name": "Balanced accuracy", "about": "mean of the shares found in each class"},
    "auroc": {
        "name": "AUROC",
        "about": "how often a sample with a tumour scores higher than one without; chance is 0.5",
    },
    "average_precision": {"name": "Average precision", "about": "area under the precision-recall curve"},
    "sensitivity": {"name": "Sensitivity", "about": "share of samples with a tumour that were found"},
    "specificity": {"name": "Specificity", "about": "share of samples without a tumour that were called so"},
    "ppv": {"name": "PPV", "about": "share of calls of a tumour that were right, in this set"},
    "npv": {"name": "NPV", "about": "share of calls of no tumour that were right, in this set"},
    "ppv_at_prevalence": {"name": "PPV", "about": "share of calls of a tumour that would be right there"},
    "npv_at_prevalence": {"name": "NPV", "about": "share of calls of no tumour that would be right there"},
    "f1": {"name": "F1 score", "about": "harmonic mean of sensitivity and PPV"},
    "mcc": {
        "name": "Matthews correlation",
        "about": "agreement of calls and labels, from −1 to 1; 0 is chance",
    },
    "macro_precision": {"name": "Macro precision (“Avg Precision”)", "about": "mean over classes of the PPV of each"},
    "macro_recall": {"name": "Macro recall (“Avg Recall”)", "about": "mean over classes of the share found of each"},
    "brier": {"name": "Brier score", "about": "mean squared error of the scores; lower is better"},
    "log_loss": {"name": "Log loss", "about": "cost of sure mistakes; lower is better"},
    "ece": {
        "name": "Expected calibration error",
        "about": f"mean distance of scores from true shares, in {ECE_BINS} bins of equal width; lower is better",
    },
    "calibration_slope": {"name": "Calibration slope", "about": "1 is ideal; below it, scores are too extreme"},
    "calibration_intercept": {
        "name": "Calibration intercept",
        "about": "0 is ideal; below it, scores are too high on the whole",
    },
}
"""Metric → its name for people, and what it says."""


def metric_name(metric: str, prevalence: float | None = None) -> dict[str, str]:
    """`name` and `about` of a metric; of one that is not in the table, its own name.

    Args:
        metric: its name in a table of figures.
        prevalence: of the figures at one.
    """
    if metric.startswith("auroc_"):
        return {"name": f"AUROC of {metric.removeprefix('auroc_')}", "about": "this class against all others"}
    found = METRICS.get(metric, {"name": metric, "about": ""})
    if prevalence is not None and metric.endswith("_at_prevalence"):
        return {**found, "name": f"{found['name']} at a prevalence of {100 * prevalence:g} %"}
    return found
