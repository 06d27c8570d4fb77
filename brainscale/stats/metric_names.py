"""Names of the metrics for people, and what each one says."""

from dataclasses import dataclass, replace

from brainscale.stats.calibration import ECE_BINS
from brainscale.stats.multiclass import OF_EACH_CLASS, TUMOUR_PREFIX


@dataclass(frozen=True)
class MetricName:
    """A metric for people.

    Attributes:
        name: its name.
        about: what it says, in a few words.
    """

    name: str
    about: str = ""


DISPLAY_NAMES = {
    "accuracy": MetricName("Accuracy", "share of samples classified correctly"),
    "balanced_accuracy": MetricName("Balanced accuracy", "mean of the recall of each class"),
    "auroc": MetricName(
        "AUROC", "probability that a sample with a tumour scores higher than one without; 0.5 is chance"
    ),
    "average_precision": MetricName("Average precision", "area under the precision-recall curve"),
    "sensitivity": MetricName("Sensitivity", "share of samples with a tumour that are predicted to have one"),
    "specificity": MetricName("Specificity", "share of samples without a tumour that are predicted to have none"),
    "ppv": MetricName("PPV", "share of tumour predictions that are correct, in this set"),
    "npv": MetricName("NPV", "share of no-tumour predictions that are correct, in this set"),
    "ppv_at_prevalence": MetricName("PPV", "share of tumour predictions that would be correct at this prevalence"),
    "npv_at_prevalence": MetricName("NPV", "share of no-tumour predictions that would be correct at this prevalence"),
    "f1": MetricName("F1 score", "harmonic mean of sensitivity and PPV"),
    "mcc": MetricName("Matthews correlation", "correlation of predictions and labels, from −1 to 1; 0 is chance"),
    "macro_precision": MetricName(
        "Macro precision", "mean of the precision of each class; “Avg Precision” in the published table"
    ),
    "macro_recall": MetricName("Macro recall", "mean of the recall of each class; “Avg Recall” in the published table"),
    "brier": MetricName("Brier score", "mean squared error of the scores; lower is better"),
    "log_loss": MetricName("Log loss", "penalty for confident mistakes; lower is better"),
    "ece": MetricName(
        "Expected calibration error",
        f"mean distance of scores from true shares, in {ECE_BINS} bins of equal width; lower is better",
    ),
    "calibration_slope": MetricName("Calibration slope", "1 is ideal; below 1, scores are too extreme"),
    "calibration_intercept": MetricName("Calibration intercept", "0 is ideal; below 0, scores are too high on average"),
    "macro_auroc": MetricName("Macro AUROC", "mean of the AUROC of each class against the rest; 0.5 is chance"),
    "macro_average_precision": MetricName(
        "Macro average precision", "mean of the area under the precision-recall curve of each class"
    ),
    "macro_f1": MetricName("Macro F1 score", "mean of the F1 score of each class"),
    "tumour_accuracy": MetricName(
        "Tumour accuracy", "share of samples that are rightly predicted to have a tumour of some kind, or none"
    ),
}
CLASS_NAMES = {
    "sensitivity": MetricName("Sensitivity", "share of samples of this class that are predicted to be"),
    "specificity": MetricName("Specificity", "share of samples of other classes that are not predicted to be this one"),
    "ppv": MetricName("PPV", "share of predictions of this class that are correct, in this set"),
    "npv": MetricName("NPV", "share of predictions of other classes whose sample is not of this one, in this set"),
    "auroc": MetricName("AUROC", "this class against all others"),
}
"""Metrics of one class against the rest."""
PROPER_NAMES = ("AUROC", "PPV", "NPV", "F1", "Matthews", "Brier")


PUBLISHED_NOTE = (
    "Macro precision and macro recall are means over the classes, “Avg Precision” and “Avg Recall” of the published "
    "table; average precision, the area under the precision-recall curve, is another metric."
)
"""Footnote of every table of the published metrics."""
MULTICLASS_NOTE = (
    "Tumour AUROC, sensitivity and specificity are those of a tumour of any kind against none; macro AUROC is the mean "
    "of the AUROC of each class against the rest; accuracy, precision and recall tell all classes apart."
)
"""Footnote of such a table where a model has more than two classes."""


def metric_name(metric: str, prevalence: float | None = None) -> MetricName:
    """Return the name of a metric for people; one that is not in the table keeps its own.

    Args:
        metric: its name in a table of metrics.
        prevalence: prevalence of the two metrics that are computed for one.
    """
    if metric not in DISPLAY_NAMES:
        kind, _, of_class = metric.partition("_")
        if kind in OF_EACH_CLASS and of_class:
            return replace(CLASS_NAMES[kind], name=f"{CLASS_NAMES[kind].name} of {of_class}")
        if metric.startswith(TUMOUR_PREFIX):
            known = metric_name(metric.removeprefix(TUMOUR_PREFIX), prevalence)
            is_proper = known.name.startswith(PROPER_NAMES)
            return replace(known, name=f"Tumour {known.name if is_proper else known.name[0].lower() + known.name[1:]}")
    known = DISPLAY_NAMES.get(metric, MetricName(metric))
    if prevalence is not None and metric.endswith("_at_prevalence"):
        return replace(known, name=f"{known.name} at a prevalence of {100 * prevalence:g} %")
    return known
