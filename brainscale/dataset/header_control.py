"""Measure how well file headers alone predict the label; a model has to do better than this control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import ManifestError
from brainscale.seeds import derive

CONTROL_ROWS = 20_000
"""Maximum number of samples that the control looks at; of a larger set it draws as many with a fixed seed."""
COLUMNS = ["sample_id", "error_code", "label", "group", "nbytes", "width", "height", "mode"]
"""Columns of the manifest that the control needs."""
FOLDS = 5
MIN_GROUPS = 10
"""Groups of each class below which `estimate_header_control` gives no value: its interval would say nothing."""


@dataclass(frozen=True, kw_only=True)
class HeaderPredictions:
    """Predictions from file headers alone, each by a classifier that was not trained on the sample's group.

    Attributes:
        sample_ids: ids of the labelled samples, [N].
        labels: int [N], class indices.
        probabilities: float64 [N, classes].
        codes: int [N], the number of each sample's group.
    """

    sample_ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    codes: np.ndarray

    def select(self, sample_ids: Sequence[str]) -> "HeaderPredictions":
        """Return the predictions of the given samples, in their order."""
        row_of = {sample_id: row for row, sample_id in enumerate(self.sample_ids)}
        rows = [row_of[sample_id] for sample_id in sample_ids]
        return HeaderPredictions(
            sample_ids=list(sample_ids),
            labels=self.labels[rows],
            probabilities=self.probabilities[rows],
            codes=self.codes[rows],
        )


def predict_from_headers(table: pa.Table, class_index: Mapping[str, int], min_groups: int = FOLDS) -> HeaderPredictions:
    """Predict labels from file size, width, height and pixel mode alone, cross-validated by group.

    Args:
        table: a manifest.
        class_index: label → class index from 0.
        min_groups: number of groups that each class must have, at least `FOLDS`.

    Raises:
        ManifestError: a class has too few groups.
    """
    is_labelled = pc.is_in(table["label"], pa.array(list(class_index)))
    rows = table.filter(pc.and_(pc.is_null(table["error_code"]), is_labelled))
    labels = np.array([class_index[label] for label in rows["label"].to_pylist()], np.int64)
    groups = np.array(rows["group"].to_pylist())
    fewest = min(len(set(groups[labels == i])) for i in class_index.values())
    if fewest < min_groups:
        raise ManifestError(
            f"a class has only {fewest} group(s): the header-only control needs {min_groups} of each class"
        )
    from sklearn.model_selection import StratifiedGroupKFold  # here: small sets need none of it; it loads for seconds

    from brainscale.stats.resampling import group_codes

    classes = len(set(class_index.values()))
    headers, probabilities = header_features(rows), np.zeros((len(rows), classes))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for train_rows, test_rows in folds.split(headers, labels, groups):
        learnt = train_rows[choose_rows(len(train_rows))]
        probabilities[test_rows] = predict_with_forest(headers, labels, learnt, test_rows, classes)
    return HeaderPredictions(
        sample_ids=rows["sample_id"].to_pylist(), labels=labels, probabilities=probabilities, codes=group_codes(groups)
    )


def predict_with_forest(
    headers: np.ndarray, labels: np.ndarray, learnt: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Return probabilities of a random forest that learnt from some rows for others, float64 [predicted, classes].

    Args:
        headers: `header_features` of all rows.
        labels: class index of each row.
        learnt: indices of the rows to learn from.
        predicted: indices of the rows to predict.
        classes: number of classes.
    """
    from sklearn.ensemble import RandomForestClassifier  # here, as above

    forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=0).fit(headers[learnt], labels[learnt])
    probabilities = np.zeros((len(predicted), classes))
    probabilities[:, forest.classes_] = forest.predict_proba(headers[predicted])
    return probabilities


@dataclass(frozen=True, kw_only=True)
class HeaderControl:
    """How well file headers alone predict a tumour.

    Attributes:
        auroc: area under the ROC curve; None where it cannot be computed.
        low: lower end of the 95 % interval (DeLong, by group).
        high: upper end of the 95 % interval.
        n: number of samples.
        reason: why there is no value.
    """

    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, float | str | None]:
        """Return the value with its interval and n, or the reason why there is none."""
        if self.auroc is None and self.n is None:
            return {"reason": self.reason}
        return {"auroc": self.auroc, "low": self.low, "high": self.high, "n": self.n}


def estimate_header_control(manifest: pa.Table, negative: str) -> HeaderControl:
    """Estimate how well file headers alone predict a tumour, cross-validated by group.

    A network that does no better may have learnt how the files were made instead of what they show.

    Args:
        manifest: labelled samples.
        negative: name of the class without a tumour.
    """
    rows = manifest.select(COLUMNS)
    rows = rows.filter(pc.and_(pc.is_null(rows["error_code"]), pc.is_valid(rows["label"])))
    return control_of_rows(rows.take(choose_rows(len(rows))), negative)


def choose_rows(count: int) -> np.ndarray:
    """Return which of so many samples the control looks at: int64 [rows], ascending, `CONTROL_ROWS` at most."""
    if count <= CONTROL_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(derive(0, "header-only control")).choice(count, CONTROL_ROWS, replace=False))


def rows_to_learn_from(manifest: pa.Table, sample_ids: pa.ChunkedArray) -> pa.Table:
    """Return the rows of some samples, and others to learn from, as many as the control looks at.

    Args:
        manifest: manifest of the samples.
        sample_ids: ids of the samples that the control is measured on.
    """
    manifest = manifest.select(COLUMNS)  # before rows are copied: signatures are large
    is_measured = pc.is_in(manifest["sample_id"], sample_ids.combine_chunks()).to_numpy()
    others = np.flatnonzero(~is_measured)
    kept = np.sort(np.concatenate([np.flatnonzero(is_measured), others[choose_rows(len(others))]]))
    return manifest.take(pa.array(kept)) if len(kept) < len(manifest) else manifest


def control_of_rows(rows: pa.Table, negative: str) -> HeaderControl:
    """Return what `estimate_header_control` does, from the labelled samples that `choose_rows` chose."""
    class_index = {label: int(label != negative) for label in ("a tumour", negative, *rows["label"].to_pylist())}
    try:
        predictions = predict_from_headers(rows, class_index, MIN_GROUPS)
    except ManifestError as error:
        return HeaderControl(reason=str(error))
    from brainscale.stats.labelled import LabelledProbabilities  # here, as above
    from brainscale.stats.metrics import estimate_auroc

    auroc = estimate_auroc(
        LabelledProbabilities(
            labels=predictions.labels,
            probabilities=predictions.probabilities,
            classes=("without", "with"),
            groups=predictions.codes,
        )
    )
    return HeaderControl(auroc=auroc.value, low=auroc.low, high=auroc.high, n=auroc.n, reason=auroc.reason)


def header_features(rows: pa.Table) -> np.ndarray:
    """Return float64 [n, 4]: file size in bytes, width, height, and a number for the pixel mode."""
    modes: Sequence[str | None] = rows["mode"].to_pylist()
    mode_number = {mode: number for number, mode in enumerate(sorted({mode or "" for mode in modes}))}
    sizes = [rows[name].fill_null(0).to_numpy() for name in ("nbytes", "width", "height")]
    return np.stack([*sizes, np.array([mode_number[mode or ""] for mode in modes])], axis=1).astype(np.float64)
