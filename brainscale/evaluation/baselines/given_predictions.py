"""Predictions that another program made, so that a model of others stands beside the networks here."""

import csv
from pathlib import Path

import numpy as np

from brainscale.config.explain import did_you_mean
from brainscale.config.sections import Config
from brainscale.errors import ManifestError, UsageError
from brainscale.evaluation.baselines.task import BaselineTask, Floats
from brainscale.hashing import file_sha256

CONTENT = "sha256"
"""Column with the hash of the encoded bytes: a picture is found by its content, whatever its name."""


def predict_as_given(task: BaselineTask) -> Floats:
    """Return the probabilities that a table has for the rows to predict; nothing is learned.

    The table is `model.weights` of the configuration: a CSV file with the column sha256 of a picture's file, and one
    column for each class with its probability.

    Raises:
        UsageError: the configuration names no table, or it lacks a column.
        ManifestError: a picture is not in it, or has no probabilities there.
    """
    path = require_table(task.config)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if missing := next((name for name in (CONTENT, *task.classes) if name not in columns), None):
            raise UsageError(f"{path} has no column {missing}{did_you_mean(missing, columns)}")
        given = {row[CONTENT]: [row[name] for name in task.classes] for row in reader}
    rows = task.rows.select(["sample_id", "sha256"]).take(task.predict).to_pylist()
    if absent := next((row["sample_id"] for row in rows if row["sha256"] not in given), None):
        raise ManifestError(f"{path} has no prediction of the file of '{absent}': predict all samples of the data")
    try:
        probabilities = np.array([given[row["sha256"]] for row in rows], np.float64)
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{path} has a probability that is no number ({error})") from None
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ManifestError(f"{path} has probabilities that are not between 0 and 1, or whose sum is not 1")
    return probabilities


def require_table(config: Config) -> Path:
    """Return the path of the table.

    Raises:
        UsageError: there is none.
    """
    weights = config.model.weights
    if weights is None or not Path(weights).is_file():
        named = f" {weights}" if weights else ""
        raise UsageError(f"no table of given predictions{named}: set model.weights to the path of a CSV file")
    return Path(weights)


def describe_table(config: Config) -> str:
    """Return the hash of the table.

    Raises:
        UsageError: there is none.
    """
    return file_sha256(require_table(config))
