"""Find the samples that two manifests share, to tell whether an external dataset is really external."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.hamming import find_near_matches

COLUMNS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # of the external sample
        pa.field("label", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # bytes, picture, patient or series
        pa.field("distance", pa.int32()),  # bits between the perceptual hashes, of the nearest sample
        pa.field("other", pa.string(), nullable=False),  # the first training sample that matches
        pa.field("other_label", pa.string()),
        pa.field("other_split", pa.string()),
    ]
)


class _Match(NamedTuple):
    """What an external sample has in common with a row of the training manifest."""

    kind: str
    bits: int | None
    row: int


def find_overlap(training: pa.Table, external: pa.Table, distance: int) -> pa.Table:
    """Return one row for each external sample that the training manifest contains too, with the closest match.

    Args:
        training: manifest of the training set.
        external: manifest of the external set.
        distance: maximum Hamming distance, in bits, between the perceptual hashes of near duplicates.

    Returns:
        A table of schema `COLUMNS`, sorted by sample_id. Patients and series match only if both manifests were made
        with the same patient key.
    """
    training, external = (table.filter(pc.is_null(table["error_code"])) for table in (training, external))
    matches: dict[int, _Match] = {}
    for column, kind in (("sha256", "bytes"), ("scan", "series"), ("patient", "patient")):
        first_row: dict[str, int] = {}
        for row, value in enumerate(training[column].to_pylist()):
            first_row.setdefault(value, row)
        for row, value in enumerate(external[column].to_pylist()):
            if value is not None and value in first_row:
                matches.setdefault(row, _Match(kind, 0 if kind == "bytes" else None, first_row[value]))
    for row, (bits, training_row) in _nearest_rows(training, external, distance).items():
        matches.setdefault(row, _Match("picture", bits, training_row))
    training_rows = training.select(["sample_id", "label", "split"]).to_pylist()
    rows = [
        {
            **external.select(["sample_id", "label"]).slice(row, 1).to_pylist()[0],
            "kind": match.kind,
            "distance": match.bits,
            "other": training_rows[match.row]["sample_id"],
            "other_label": training_rows[match.row]["label"],
            "other_split": training_rows[match.row]["split"],
        }
        for row, match in sorted(matches.items())
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS).sort_by("sample_id")


def _nearest_rows(training: pa.Table, external: pa.Table, distance: int) -> dict[int, tuple[int, int]]:
    """Return external row → (bits, row) of the training sample with the nearest perceptual hash."""
    training_rows, training_hashes = _perceptual_hashes(training)
    external_rows, external_hashes = _perceptual_hashes(external)
    nearest: dict[int, tuple[int, int]] = {}
    for i, j in find_near_matches(training_hashes, external_hashes, distance).T.tolist():
        match = (int(np.bitwise_count(training_hashes[i] ^ external_hashes[j])), int(training_rows[i]))
        row = int(external_rows[j])
        nearest[row] = min(nearest.get(row, match), match)
    return nearest


def _perceptual_hashes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that have a perceptual hash, and these hashes as uint64."""
    has_hash = pc.is_valid(table["phash"]).to_numpy()
    values = [int(text, 16) for text in table["phash"].drop_null().to_pylist()]
    return np.flatnonzero(has_hash), np.array(values, np.uint64)
