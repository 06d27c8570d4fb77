"""Fit a baseline on the training part of a manifest, and predict its test split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.errors import ManifestError
from brainscale.evaluation.baselines.task import Baseline, BaselineTask
from brainscale.models.bundle import OperatingPoint
from brainscale.stats.decisions import apply_temperature
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.resampling import group_codes
from brainscale.stats.thresholds import fit_temperature
from brainscale.training.threshold_choice import choose_threshold


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedBaseline:
    """What a baseline says of the test split.

    Attributes:
        test: rows of the test split.
        probabilities: float32 [test, classes], calibrated if that is asked for.
        learned_from: the splits that it learned from.
        operating_point: the threshold, and how it was chosen.
        temperature: number by which log-probabilities were divided.
    """

    test: pa.Table
    probabilities: np.ndarray
    learned_from: tuple[str, ...]
    operating_point: OperatingPoint
    temperature: float = 1.0


def fit_baseline(
    baseline: Baseline, manifest: pa.Table, config: Config, cache: Path | None, *, learns: bool = True
) -> FittedBaseline:
    """Fit a baseline and predict the test split; see `run_baseline`.

    One that does not learn needs no training part.

    Raises:
        ManifestError: there are no samples to learn from or to predict, or a label is no class.
    """
    operating = config.operating
    needs_val = operating.threshold != "fixed" or operating.temperature
    predicted = ("test", "val") if needs_val else ("test",)
    rows = manifest.filter(
        pc.is_valid(manifest["split"]) if learns else pc.is_in(manifest["split"], pa.array(predicted))
    )
    splits = np.array(rows["split"].to_pylist(), object)
    for split in (*(("train",) if learns else ()), *predicted):
        if split not in splits:
            raise ManifestError(f"no sample is in the split {split}: run `brainscale split` first")
    learned_from = tuple(name for name in ("train", "val") if name in splits and name not in predicted)
    task = _make_task(rows, np.isin(splits, learned_from), config, cache)
    is_predicted = {split: splits[task.predict] == split for split in ("val", "test")}
    probabilities = baseline(task).astype(np.float32)
    temperature, val = 1.0, is_predicted["val"]
    if operating.temperature:
        temperature = fit_temperature(task.labels[task.predict][val], probabilities[val])
        probabilities = np.asarray(apply_temperature(probabilities, temperature), np.float32)
    samples = LabelledProbabilities(
        labels=task.labels[task.predict][val],
        probabilities=probabilities[val].astype(np.float64),
        classes=tuple(task.classes),
        groups=task.groups[task.predict][val],
    )
    return FittedBaseline(
        test=task.rows.take(pa.array(task.predict[is_predicted["test"]])),
        probabilities=probabilities[is_predicted["test"]],
        learned_from=learned_from,
        operating_point=choose_threshold(operating, samples, "samples"),
        temperature=temperature,
    )


def _make_task(rows: pa.Table, is_learned: np.ndarray, config: Config, cache: Path | None) -> BaselineTask:
    """Return a task from the samples that have a split.

    Raises:
        ManifestError: a label is no class.
    """
    classes = list(config.data.classes)
    labels = pc.index_in(rows["label"], pa.array(classes, pa.string()))
    if labels.null_count:
        unknown = rows["label"].filter(pc.is_null(labels))[0].as_py()
        raise ManifestError(f"label '{unknown}' is not a class: the classes are {', '.join(classes)}")
    return BaselineTask(
        rows=rows,
        labels=labels.to_numpy().astype(np.int64),
        groups=group_codes(pc.coalesce(rows["group"], rows["sample_id"])),
        classes=classes,
        learn=np.flatnonzero(is_learned),
        predict=np.flatnonzero(~is_learned),
        config=config,
        cache=cache,
    )
