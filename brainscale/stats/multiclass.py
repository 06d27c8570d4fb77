"""Names of the metrics of models with more than two classes, and the two-class question that such a model answers too.

Three blocks, told apart by their names:

- all classes together: `accuracy`, `mcc`, … and means over the classes, `macro_…`;
- each class against the rest: `sensitivity_<class>`, `specificity_<class>`, …;
- a tumour of any kind against none: `tumour_sensitivity`, `tumour_specificity`, …

So no name that two-class models have for a tumour against none stands for anything else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from brainscale.stats.estimate import Estimate
from brainscale.stats.labelled import LabelledProbabilities

ANY_TUMOUR = "any tumour"
"""Name of all kinds of tumour together."""
OF_ALL_CLASSES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "macro_auroc": "auroc",
    "macro_average_precision": "average_precision",
    "macro_f1": "f1",
    "mcc": "mcc",
    "macro_precision": "macro_precision",
    "macro_recall": "macro_recall",
    "brier": "brier",
    "log_loss": "log_loss",
    "ece": "ece",
}
"""Metric of all classes together → name of the same computation with two classes."""
OF_EACH_CLASS = ("sensitivity", "specificity", "ppv", "npv", "auroc")
"""Metrics of each class against the rest, as `<metric>_<class>`."""
TUMOUR_PREFIX = "tumour_"
OF_ANY_TUMOUR = (
    *("accuracy", "auroc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc"),
    *("brier", "ece", "calibration_slope", "calibration_intercept", "ppv_at_prevalence", "npv_at_prevalence"),
)
"""Metrics of a tumour of any kind against none, as `tumour_<metric>`."""


@dataclass(frozen=True, kw_only=True)
class MetricBlocks:
    """Names of metrics, in the blocks in which people read them.

    Attributes:
        together: those of all classes together; with two classes, all names.
        by_class: class → those of this class against the rest; empty with two classes.
        any_tumour: those of a tumour of any kind against none; empty with two classes.
    """

    together: Sequence[str]
    by_class: Mapping[str, Sequence[str]]
    any_tumour: Sequence[str]


def sort_into_blocks(names: Iterable[str], classes: Sequence[str]) -> MetricBlocks:
    """Sort the names of a model's metrics into blocks, each in the order of the names.

    Args:
        names: names of metrics.
        classes: names of the classes.
    """
    names = list(names)
    if len(classes) == 2:
        return MetricBlocks(together=names, by_class={}, any_tumour=())
    by_class = {
        class_name: [name for name in names if name in class_metric_names([class_name])] for class_name in classes
    }
    any_tumour = [name for name in names if name.startswith(TUMOUR_PREFIX)]
    others = {*any_tumour, *class_metric_names(classes)}
    return MetricBlocks(
        together=[name for name in names if name not in others], by_class=by_class, any_tumour=any_tumour
    )


def tumour_against_none(samples: LabelledProbabilities) -> LabelledProbabilities:
    """Return the samples as those of a two-class model that adds up the probabilities of all kinds of tumour.

    It predicts a tumour for the same samples, as the threshold is that of P(tumour) for any number of classes. A sample
    with a probability that is not a finite number has none.
    """
    is_finite = np.isfinite(samples.probabilities).all(1)
    without = np.where(is_finite, samples.probabilities[:, 0], np.nan)
    return replace(
        samples,
        labels=samples.has_tumour.astype(np.int64),
        probabilities=np.stack([without, 1 - without], axis=1),
        classes=(samples.classes[0], ANY_TUMOUR),
    )


def name_of_class_metric(metric: str, class_name: str) -> str:
    """Return the name of a metric of one class against the rest."""
    return f"{metric}_{class_name}"


def as_all_classes(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return metrics of all classes together, given by the names of two-class models, by their own names."""
    return {name: estimates[computed_as] for name, computed_as in OF_ALL_CLASSES.items()}


def as_tumour_against_none(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the metrics of `tumour_against_none`, given by the names of two-class models, by their own names."""
    return {f"{TUMOUR_PREFIX}{name}": estimates[name] for name in OF_ANY_TUMOUR if name in estimates}


def class_metric_names(classes: Sequence[str]) -> list[str]:
    """Return the names of the metrics of each class against the rest, class by class."""
    return [name_of_class_metric(metric, name) for name in classes for metric in OF_EACH_CLASS]
