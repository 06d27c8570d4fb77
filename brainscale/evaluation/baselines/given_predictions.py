"""Predictions that another program made, so that a model of others stands beside the networks here."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.errors import ManifestError, UsageError, first_line
from brainscale.evaluation.baselines.task import BaselineTask, Floats
from brainscale.hashing import file_sha256

HASH_COLUMN = "sha256"
"""Column with the hash of a picture's file: it is found by its content, whatever its name."""
ROUNDING = 1e-3
"""How far the sum of the probabilities may be from 1."""


def predict_as_given(task: BaselineTask) -> Floats:
    """Return the probabilities that a table has for the rows to predict; nothing is learned.

    The table is `model.weights` of the configuration: a CSV file with the column sha256 of a picture's file, and one
    column for each class with its probability.

    Raises:
        UsageError: the configuration names no table.
        ManifestError: the table cannot be used, a picture is not in it, or a file has several pictures.
    """
    path = require_table(task.config)
    given = _read_table(path, task.classes)
    rows = task.rows.take(task.predict)
    if slices := rows.filter(pc.is_valid(rows["frame"]))["sample_id"].to_pylist():
        raise ManifestError(f"'{slices[0]}' is one of several pictures in a file, and {path} has one row for each file")
    probabilities = []
    for sample_id, sha256 in zip(rows["sample_id"].to_pylist(), rows["sha256"].to_pylist(), strict=True):
        if sha256 not in given:
            raise ManifestError(f"{path} has no row with the SHA-256 of '{sample_id}': add one for each sample")
        probabilities.append(given[sha256])
    return np.array(probabilities, np.float64)


def require_table(config: Config) -> Path:
    """Return the path of the table.

    Raises:
        UsageError: there is none.
    """
    path = config.model.weights
    if path is None:
        raise UsageError("given predictions need a table: set model.weights to the path of a CSV file")
    if not Path(path).is_file():
        raise UsageError(f"there is no table of given predictions at {path}: give the path of a CSV file")
    return Path(path)


def describe_table(config: Config) -> str:
    """Return the hash of the table.

    Raises:
        UsageError: there is none.
    """
    return file_sha256(require_table(config))


def _read_table(path: Path, classes: Sequence[str]) -> dict[str, list[float]]:
    """Return hash of a file → probability of each class.

    Raises:
        ManifestError: the table cannot be read, lacks a column, has a value that is no probability, or contradicts
            itself.
    """
    given: dict[str, list[float]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in (HASH_COLUMN, *classes) if name not in (reader.fieldnames or ())]:
                raise ManifestError(f"{path}: the first line must name the column {missing[0]}")
            for row in reader:
                sha256, values = row[HASH_COLUMN], _probabilities([row[name] for name in classes])
                line = f"{path}, line {reader.line_num}"
                if not sha256 or values is None:
                    names = " and ".join(classes)
                    raise ManifestError(f"{line}: it needs a {HASH_COLUMN}, and {names} from 0 to 1 with the sum 1")
                if given.setdefault(sha256.lower(), values) != values:
                    raise ManifestError(f"{line}: an earlier line has other probabilities for this file")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} cannot be read as a CSV file ({first_line(error)})") from None
    return given


def _probabilities(texts: Sequence[str | None]) -> list[float] | None:
    """Return the probabilities of a line, or None where it has none."""
    try:
        values = [float(text or "") for text in texts]
    except ValueError:
        return None
    is_valid = all(0 <= value <= 1 for value in values) and math.isclose(sum(values), 1, abs_tol=ROUNDING)
    return values if is_valid else None
