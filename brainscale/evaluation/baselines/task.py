"""What a baseline is given: samples to learn from, and samples to predict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from brainscale.config.data_sections import PreprocessConfig
from brainscale.config.sections import Config
from brainscale.errors import ManifestError
from brainscale.reading.file_tables import file_table, files_of_manifest
from brainscale.reading.reader import read_tables
from brainscale.reading.request import ReadRequest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
INNER_FOLDS = 5
"""Folds, by group, of the training part in which a baseline makes its own choices."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineTask:
    """Samples of a manifest with splits.

    Attributes:
        rows: the samples, in the order of the manifest.
        labels: class index of each, [N].
        groups: number of each one's group, [N].
        classes: names of the classes.
        learn: indices of the rows to learn from.
        predict: indices of the rows to predict.
        config: preprocessing, limits, and the network with its weights where one is used.
        cache: folder that keeps what is computed of each sample alone; None to keep nothing.
    """

    rows: pa.Table
    labels: Ints
    groups: Ints
    classes: Sequence[str]
    learn: Ints
    predict: Ints
    config: Config
    cache: Path | None = None

    def inner_folds(self) -> list[tuple[Ints, Ints]]:
        """Return folds of the samples to learn from, as indices into `learn`: no group is in two of them.

        Raises:
            ManifestError: a class has fewer than two groups.
        """
        from sklearn.model_selection import StratifiedGroupKFold  # loads for seconds, as below

        labels, groups = self.labels[self.learn], self.groups[self.learn]
        fewest, name = min((len(set(groups[labels == i])), name) for i, name in enumerate(self.classes))
        if fewest < 2:
            raise ManifestError(
                f"the samples to learn from have {fewest} group(s) of {name}: this baseline needs two of each class"
            )
        folds = StratifiedGroupKFold(min(INNER_FOLDS, fewest), shuffle=True, random_state=0)
        return list(folds.split(labels, labels, groups))


Baseline = Callable[[BaselineTask], Floats]
"""Learns from a task and returns probabilities of the rows to predict, [len(predict), classes]."""


def read_planes(rows: pa.Table, preprocess: PreprocessConfig, config: Config) -> np.ndarray:
    """Return the planes of a manifest's rows in their order, uint8 [N, S, S], read in this process.

    Raises:
        ManifestError: a file changed after it was indexed, or can no longer be read.
    """
    planes: dict[str, np.ndarray] = {}
    expected = dict(zip(rows["sample_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True))
    request, side = ReadRequest(preprocess=preprocess, limits=config.limits), preprocess.image_size
    for table in read_tables(file_table(files_of_manifest(rows, preprocess)), request=request):
        columns = (table[name].to_pylist() for name in ("sample_id", "sha256", "plane", "error"))
        for sample_id, sha256, plane, error in zip(*columns, strict=True):
            if plane is None or sha256 != expected[sample_id]:
                reason = f"can no longer be read ({error})" if plane is None else "changed after it was indexed"
                raise ManifestError(f"'{sample_id}' {reason}: index the source again")
            planes[sample_id] = np.frombuffer(plane, np.uint8).reshape(side, side)
    return np.stack([planes[sample_id] for sample_id in expected])
