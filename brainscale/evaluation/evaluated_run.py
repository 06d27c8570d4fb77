"""An evaluation as its folder holds it, for a comparison."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.header_control import COLUMNS
from brainscale.dataset.manifest import MANIFEST_FILE
from brainscale.errors import BundleError
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.evaluation.units import read_labelled_units
from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.labelled import LabelledProbabilities, labelled_rows
from brainscale.stats.metrics import measure
from brainscale.stats.units import require_unit
from brainscale.storage.tables import read_table

COSTS = ("parameters", "flops", "images_per_second")
FACTS = ("model", "run", "unit", "samples_sha256", "classes", "threshold", "weights_sha256", "model_edited", *COSTS)
"""What a comparison needs to know of an evaluation, besides its metrics."""


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """An evaluation as its folder holds it.

    Attributes:
        folder: folder of the evaluation.
        facts: what it says of itself, by the names of FACTS.
        estimates: its metrics by name.
        columns: columns of the manifest to match on.
        only: ids of the samples that count, where not all do.
    """

    folder: Path
    facts: Mapping[str, str]
    estimates: Mapping[str, Estimate]
    columns: Sequence[str] = ()
    only: pa.ChunkedArray | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in json.loads(self.facts["classes"])]

    @cached_property
    def manifest(self) -> pa.Table:
        """The manifest that it was made on: what groups and controls need of it."""
        return read_table(self.folder / MANIFEST_FILE, "manifest", [*COLUMNS, *self.columns])

    @cached_property
    def labelled(self) -> pa.Table:
        """What counts, sorted by sample_id: the predictions, or scans or patients under their own names."""
        if (unit := self.facts["unit"]) != "slice":
            return read_labelled_units(self.folder, require_unit(unit))
        columns = ["sample_id", "sha256", "label", "probabilities"]
        table = labelled_rows(read_table(self.folder / PREDICTIONS_FILE, "predictions", columns)).sort_by("sample_id")
        return table if self.only is None else table.filter(pc.is_in(table["sample_id"], self.only.combine_chunks()))

    @property
    def threshold(self) -> float | None:
        """The operating threshold; None without an operating point of the unit."""
        return None if self.facts["threshold"] == "None" else float(self.facts["threshold"])

    @property
    def groups(self) -> pa.Table:
        """The sample_id and group of each sample, scan or patient."""
        return self.manifest if self.facts["unit"] == "slice" else self.labelled

    @property
    def samples(self) -> LabelledProbabilities:
        """Labels and probabilities of what counts, in the order of `labelled`."""
        threshold = 0.5 if self.threshold is None else self.threshold
        return LabelledProbabilities.from_predictions(
            self.labelled, self.classes, threshold=threshold, groups=self.groups
        )

    def restrict(self, sample_ids: pa.ChunkedArray) -> "EvaluatedRun":
        """Return the evaluation of some of the samples, with their metrics."""
        restricted = replace(self, only=sample_ids)
        return replace(restricted, estimates=estimates_of(measure(restricted.samples)))


def read_evaluation(folder: Path) -> EvaluatedRun:
    """Read what a comparison needs of an evaluation.

    Raises:
        BundleError: it lacks some of it, as an older version's does.
    """
    table = read_table(folder / METRICS_FILE, "metrics")
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    lacking = [name for name in FACTS if name not in facts]
    if lacking or not (folder / MANIFEST_FILE).is_file():
        what = lacking[0] if lacking else "its manifest"
        raise BundleError(f"{folder} lacks {what}: an older version wrote it; evaluate that model again")
    return EvaluatedRun(folder=folder, facts=facts, estimates=estimates_of(table))
