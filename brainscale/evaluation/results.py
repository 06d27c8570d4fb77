"""The result of an evaluation, typed."""

import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from brainscale.stats.estimate import estimates_of
from brainscale.storage.remote import is_address, join_address

PREDICTIONS_FILE, METRICS_FILE, REPORT_FILE = "predictions.parquet", "metrics.parquet", "report.html"
PLOTS_FOLDER = "plots"
CONFUSION_FILE = "confusion.parquet"
SUBGROUPS_FILE = "subgroups.parquet"
LEAKED_FILE, WITHOUT_LEAKED_FILE = "shared.parquet", "metrics-without-shared.parquet"
REPORT_OPTIONS = "report_options"
"""Metadata key of metrics.parquet: what the report shows besides the tables, as JSON."""
MATCHED_FILE, PAIRS_FILE = "matched.parquet", "matched-pairs.parquet"


@dataclass(frozen=True, kw_only=True)
class EvaluationFacts:
    """What `_SUCCESS.json` says of an evaluation.

    Attributes:
        model: name of the network.
        run: name of the folder that the model came from.
        data: name of the data; None for the run's own.
        split: train, val, test or all.
        samples: number of samples in the split.
        unit: what is decided on: slice, scan or patient.
        aggregation: how the probability of a scan or patient follows from its slices; None for slices.
        units: number of slices, scans or patients with a label and a score: the metrics rest on these.
        labelled_samples: number of samples with a label and a score.
        unlabelled_samples: number of them that were scored but have no label.
        errors: number of them that could not be read or scored.
        shared_with_training: number of samples that trained or selected the model, or are near duplicates of such;
            None where that is unknown.
        looks: number of models of the run that were evaluated on these test samples, this one included; None for a
            split that training used, or without a run.
        looks_note: why the run does not count this look, such as a folder that cannot be written; else None.
        degenerate: one sentence where the model predicts one class, or gives one score, for every sample.
        unusual: number of samples that are more unusual than 99 % of the validation samples; None for a model without
            novelty.
        matched_on: columns that pairs of samples were matched on; None without.
        caliper: maximum difference within a pair; None without a column of numbers.
        pairs: number of pairs; None without matching.
        samples_without_pair: number of labelled samples in no pair; None without matching.
        prevalence: share of tumours that predictive values were computed for, if any.
        images_per_second: samples by seconds, start included.
        parameters: number of trainable parameters.
        model_edited: whether model.json was edited after training, which was allowed.
        weights_sha256: hash of the weights.
        samples_sha256: fingerprint of the samples' manifest.
        manifest_sha256: fingerprint of the whole manifest.
        evaluation_sha256: hash of all that the evaluation depends on; the same one is read, not computed again.
    """

    model: str
    run: str
    data: str | None
    split: str
    samples: int
    unit: str
    aggregation: str | None
    units: int
    labelled_samples: int
    unlabelled_samples: int
    errors: int
    shared_with_training: int | None
    looks: int | None
    looks_note: str | None
    degenerate: str | None
    unusual: int | None = None
    matched_on: str | None = None
    caliper: float | None = None
    pairs: int | None = None
    samples_without_pair: int | None = None
    prevalence: float | None
    images_per_second: float
    parameters: int
    model_edited: bool
    weights_sha256: str
    samples_sha256: str
    manifest_sha256: str
    evaluation_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the facts by name."""
        return {field.name: getattr(self, field.name) for field in fields(EvaluationFacts)}


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvaluationFacts):
    """An evaluation: its facts and its tables.

    Attributes:
        path: folder of the evaluation, a path or an address.
        metrics: table of schema METRICS.
        predictions: table of schema PREDICTIONS, one row for each sample.
        unit_table: table of schema SCANS or PATIENTS, one row for each; None for slices.
        matched: table of schema MATCHED; None without matching.
    """

    path: str
    metrics: pa.Table
    predictions: pa.Table
    unit_table: pa.Table | None = None
    matched: pa.Table | None = None

    @property
    def report(self) -> str:
        """Path or address of its report, where one was made."""
        return join_address(self.path, REPORT_FILE) if is_address(self.path) else str(Path(self.path, REPORT_FILE))

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """The confusion matrix: class → predicted class → number of slices, scans or patients."""
        classes = json.loads(self.metrics.schema.metadata[b"classes"])
        table = self.predictions if self.unit_table is None else self.unit_table
        counts = Counter(zip(table["label"].to_pylist(), table["prediction"].to_pylist(), strict=True))
        return {label: {predicted: counts[label, predicted] for predicted in classes} for label in classes}

    def to_json(self) -> dict[str, Any]:
        """Return the facts, confusion matrix, metrics with intervals, rows of `matched`, and the folder as `out`."""
        estimates = estimates_of(self.metrics)
        return {
            **super().to_json(),
            "confusion": self.confusion,
            "metrics": {name: estimate.value for name, estimate in estimates.items()},
            "intervals": {name: [estimate.low, estimate.high] for name, estimate in estimates.items()},
            "matched": None if self.matched is None else self.matched.to_pylist(),
            "out": self.path,
        }
