"""Verify the splits of sharded manifests and compare two, with the results that manifests of one file give."""

import numpy as np
import pyarrow as pa

from brainscale.dataset.groups import connect_rows, list_violations
from brainscale.dataset.near_duplicates import SIMILARITY, pairs_of_rows
from brainscale.dataset.overlap import ManifestFacts, find_nearest_rows, list_matches
from brainscale.dataset.shard_columns import ManifestColumns
from brainscale.dataset.split_check import SplitCheck, require_splits


def verify_shards(columns: ManifestColumns, similarity: float | None = SIMILARITY) -> SplitCheck:
    """Look for samples that belong together but are in different splits or folds, as `verify_split` does.

    Raises:
        ManifestError: the manifest has no splits or an unknown one, or no readable sample.
    """
    readable = ~columns.valid("error_code")
    assigned = [column for column in ("split", "fold") if columns.valid(column).any()]
    require_splits(assigned, columns.distinct("split"), int(readable.sum()))
    near = pairs_of_rows(*columns.near_pairs(similarity), similarity)
    components = connect_rows(readable & columns.valid("sha256"), columns.numbers, near)
    return SplitCheck(
        verified=" and ".join(assigned),
        groups=int(columns.numbers("group").max(initial=-1)) + 1,
        samples_without_signature=int((readable & ~columns.valid("signature")).sum()),
        violations=list_violations(
            columns.numbers, near, components, readable, lambda column, rows: columns.texts(column, np.asarray(rows))
        ),
    )


def count_facts(columns: ManifestColumns) -> ManifestFacts:
    """Return what `overlap` says of one of its manifests.

    Args:
        columns: of this manifest alone.
    """
    readable = ~columns.valid("error_code")
    return ManifestFacts(
        samples=len(readable),
        readable=int(readable.sum()),
        without_signature=int((readable & ~columns.valid("signature")).sum()),
        without_patient=int((readable & ~columns.valid("patient")).sum()),
        schema=columns.tables[0].schema(),
    )


def find_shared_samples(
    columns: ManifestColumns, training_rows: int, similarity: float | None = SIMILARITY
) -> pa.Table:
    """Return one row for each external sample that the training manifest contains too, as `find_overlap` does.

    Args:
        columns: of the training manifest and, after it, of the external one.
        training_rows: number of rows of the former.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.
    """
    readable = ~columns.valid("error_code")

    def equal_rows(column: str) -> np.ndarray:
        codes = np.where(readable, columns.numbers(column), -1)
        first_row = np.full(int(codes.max(initial=-1)) + 2, -1)
        rows = np.flatnonzero(codes[:training_rows] >= 0)[::-1]  # the first is written last
        first_row[codes[rows]] = rows
        return first_row[codes[training_rows:]]  # the last stands for −1

    nearest = find_nearest_rows(*columns.near_pairs(similarity), training_rows, similarity)
    return list_matches(equal_rows, nearest, training_rows, columns.texts)
