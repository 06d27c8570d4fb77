"""Samples of one manifest that are in another, exactly or nearly: is an external set external?"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.hamming import near_between

COLUMNS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # in B
        pa.field("label", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # bytes, picture, patient or series
        pa.field("distance", pa.int32()),  # bits between perceptual hashes; of the nearest
        pa.field("other", pa.string(), nullable=False),  # the first such sample of A
        pa.field("other_label", pa.string()),
        pa.field("other_split", pa.string()),
    ]
)


def find_overlap(one: pa.Table, other: pa.Table, distance: int) -> pa.Table:
    """One row for each sample of B that A has too, by its strongest tie.

    Args:
        one: the manifest A, such as a training set's.
        other: the manifest B, such as an external set's.
        distance: bits within which two perceptual hashes are of one picture.

    Returns:
        Schema `COLUMNS`, sorted by sample_id. Patients and series can only meet under the same key.
    """
    ours, theirs = (table.filter(pc.is_null(table["error_code"])) for table in (one, other))
    rows = ours.select(["sample_id", "label", "split"]).to_pylist()
    found: dict[int, tuple[str, int | None, int]] = {}
    for column, kind in (("sha256", "bytes"), ("scan", "series"), ("patient", "patient")):
        first: dict[str, int] = {}
        for at, value in enumerate(ours[column].to_pylist()):
            first.setdefault(value, at)
        for at, value in enumerate(theirs[column].to_pylist()):
            if value is not None and value in first:
                found.setdefault(at, (kind, 0 if kind == "bytes" else None, first[value]))
    for at, (bits, place) in _near(ours, theirs, distance).items():
        found.setdefault(at, ("picture", bits, place))
    table = [
        {
            **theirs.select(["sample_id", "label"]).slice(at, 1).to_pylist()[0],
            "kind": kind,
            "distance": bits,
            "other": rows[place]["sample_id"],
            "other_label": rows[place]["label"],
            "other_split": rows[place]["split"],
        }
        for at, (kind, bits, place) in sorted(found.items())
    ]
    return pa.Table.from_pylist(table, schema=COLUMNS).sort_by("sample_id")


def _near(ours: pa.Table, theirs: pa.Table, distance: int) -> dict[int, tuple[int, int]]:
    """Row of B → bits and row of the nearest in A."""
    (place, hashes), (their_place, their_hashes) = map(_hashes, (ours, theirs))
    nearest: dict[int, tuple[int, int]] = {}
    for i, j in near_between(hashes, their_hashes, distance).T.tolist():
        tie = (int(np.bitwise_count(hashes[i] ^ their_hashes[j])), int(place[i]))
        at = int(their_place[j])
        nearest[at] = min(nearest.get(at, tie), tie)
    return nearest


def _hashes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have a perceptual hash, and the hashes as uint64."""
    known = pc.is_valid(table["phash"]).to_numpy()
    values = [int(text, 16) for text in table["phash"].drop_null().to_pylist()]
    return np.flatnonzero(known), np.array(values, np.uint64)
