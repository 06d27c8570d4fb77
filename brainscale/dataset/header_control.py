"""What a researcher wants to know of a manifest before believing a figure that rests on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold

from brainscale.errors import ManifestError
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.metrics import estimate_auroc
from brainscale.stats.resampling import group_codes

CONTROL_ROWS = 20_000  # the control learns from so many at most, evenly spaced
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class ControlVotes:
    """What file headers alone say of each labelled sample of a manifest, by classifiers that saw none of its group."""

    sample_ids: list[str]
    labels: np.ndarray  # int [N], class indices
    probabilities: np.ndarray  # float64 [N, classes]
    codes: np.ndarray  # int [N], number of each sample's group

    def of(self, sample_ids: Sequence[str]) -> "ControlVotes":
        """Those of some samples, in their order."""
        place = {sample_id: at for at, sample_id in enumerate(self.sample_ids)}
        at = [place[sample_id] for sample_id in sample_ids]
        return ControlVotes(
            sample_ids=list(sample_ids),
            labels=self.labels[at],
            probabilities=self.probabilities[at],
            codes=self.codes[at],
        )


def header_votes(table: pa.Table, number: Mapping[str, int]) -> ControlVotes:
    """Classify by file size, width, height and pixel mode alone, cross-validated by group.

    Args:
        table: a manifest.
        number: label → class index from 0.

    Raises:
        ManifestError: too few groups of some class.
    """
    rows = table.filter(pc.and_(pc.is_null(table["error_code"]), pc.is_in(table["label"], pa.array(list(number)))))
    labels = np.array([number[label] for label in rows["label"].to_pylist()], np.int64)
    group = np.array(rows["group"].to_pylist())
    fewest = min(len(set(group[labels == i])) for i in number.values())
    if fewest < FOLDS:
        raise ManifestError(f"each class needs {FOLDS} groups, and one has {fewest}")
    headers, votes = _headers(rows), np.zeros((len(rows), len(set(number.values()))))
    for learn, judge in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(headers, labels, group):
        some = learn[:: -(-len(learn) // CONTROL_ROWS)]
        forest = RandomForestClassifier(200, min_samples_leaf=3, random_state=0).fit(headers[some], labels[some])
        votes[np.ix_(judge, forest.classes_)] = forest.predict_proba(headers[judge])
    ids = rows["sample_id"].to_pylist()
    return ControlVotes(sample_ids=ids, labels=labels, probabilities=votes, codes=group_codes(group))


@dataclass(frozen=True, kw_only=True)
class HeaderControl:
    """How well file headers alone tell a tumour.

    Attributes:
        auroc: area under the ROC curve; None with a reason where it cannot be computed.
        low: lower end of its 95 % interval (DeLong by group).
        high: upper end.
        n: samples that it rests on.
        reason: why there is no value.
    """

    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, float | str | None]:
        """Return the reason, or else the value with its interval and n."""
        if self.auroc is None and self.n is None:
            return {"reason": self.reason}
        return {"auroc": self.auroc, "low": self.low, "high": self.high, "n": self.n}


def header_control(manifest: pa.Table, negative: str) -> HeaderControl:
    """Tell a tumour by file headers alone, cross-validated by group.

    A network that is no better has learnt how the files were made, not what they show.

    Args:
        manifest: labelled samples.
        negative: name of the class without a tumour.
    """
    rows = manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["label"])))
    rows = rows.take(np.arange(0, len(rows), max(1, -(-len(rows) // CONTROL_ROWS))))
    class_index = {label: int(label != negative) for label in ("a tumour", negative, *rows["label"].to_pylist())}
    try:
        votes = header_votes(rows, class_index)
    except ManifestError as error:
        return HeaderControl(reason=str(error))
    area = estimate_auroc(
        LabelledProbabilities(
            labels=votes.labels, probabilities=votes.probabilities, classes=("without", "with"), groups=votes.codes
        )
    )
    return HeaderControl(auroc=area.value, low=area.low, high=area.high, n=area.n, reason=area.reason)


def _headers(rows: pa.Table) -> np.ndarray:
    """float64 [n, 4]: bytes, width, height, and the mode's number."""
    modes: Sequence[str | None] = rows["mode"].to_pylist()
    number = {mode: n for n, mode in enumerate(sorted({m or "" for m in modes}))}
    sizes = [rows[name].fill_null(0).to_numpy() for name in ("nbytes", "width", "height")]
    return np.stack([*sizes, np.array([number[m or ""] for m in modes])], axis=1).astype(np.float64)
