"""The header-only control's votes on the samples of an evaluation: made once, kept beside it, read by comparisons."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from brainscale.dataset.header_control import (
    HeaderPredictions,
    choose_rows,
    predict_from_headers,
    rows_to_learn_from,
)
from brainscale.errors import FormatError
from brainscale.schema import HEADER_VOTES
from brainscale.storage.tables import read_table, write_table

VOTES_FILE = "header-control.parquet"


def find_votes(
    folder: Path | None, manifest: Callable[[], pa.Table], sample_ids: pa.ChunkedArray, classes: Sequence[str]
) -> HeaderPredictions:
    """Return the control's votes on samples, cross-validated by group on the whole manifest.

    Of a large set it votes on some samples only, see `choose_rows`.

    Args:
        folder: an evaluation that may hold the votes; None if there is none.
        manifest: returns the manifest of the samples, and of others to learn from.
        sample_ids: ids of the labelled samples that a model was evaluated on.
        classes: names of the classes.

    Raises:
        ManifestError: a class has too few groups.
    """
    chosen = sample_ids.take(pa.array(choose_rows(len(sample_ids))))
    votes = None if folder is None else _read_votes(folder)
    if votes is None or not set(chosen.to_pylist()) <= set(votes.sample_ids):
        class_index = {name: i for i, name in enumerate(classes)}
        votes = predict_from_headers(rows_to_learn_from(manifest(), chosen), class_index)
    return votes.select(chosen.to_pylist())


def write_votes(votes: HeaderPredictions, folder: Path) -> None:
    """Write votes to the folder of an evaluation."""
    columns = [votes.sample_ids, votes.labels, votes.codes, list(votes.probabilities)]
    write_table(pa.table(columns, schema=HEADER_VOTES), folder / VOTES_FILE, "header control")


def _read_votes(folder: Path) -> HeaderPredictions | None:
    """Return the votes in the folder of an evaluation; None where it has none that this version can read."""
    with suppress(FileNotFoundError, FormatError):
        table = read_table(folder / VOTES_FILE, "header control")
        return HeaderPredictions(
            sample_ids=table["sample_id"].to_pylist(),
            labels=table["class_index"].to_numpy(),
            probabilities=np.array(table["probabilities"].to_pylist()).reshape(len(table), -1),
            codes=table["group_code"].to_numpy(),
        )
    return None
