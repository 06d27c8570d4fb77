"""Groups of samples that must not be split: a patient, a series, the same bytes, or near duplicates."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from brainscale.dataset.hamming import near_pairs

DISTANCE = 4
"""Bits of 64 within which two perceptual hashes are of one picture. On 253 public scans, of which 47 are copies
once re-encoded and resized ones count, 0 bits leave 216 groups, 2 leave 208, 4 leave 206, and 10 leave 191."""


JOINED_BY = ("patient", "scan", "sha256")


def assign_groups(manifest: pa.Table, distance: int = DISTANCE) -> pa.Table:
    """Fill the column `group`; null for a row in error.

    A group is named after the smallest sha256 in it (16 digits), which no key and no order decides.

    Args:
        manifest: rows with patient, scan, sha256, phash and error_code.
        distance: bits within which two perceptual hashes join their samples.
    """
    group = _connected(manifest, distance)
    sha256 = manifest["sha256"].to_pylist()
    name: dict[int, str] = {}
    for number, digest in zip(group, sha256, strict=True):
        if number >= 0:
            name[number] = min(name.get(number, digest), digest)
    return with_column(manifest, "group", pa.array([name[n][:16] if n >= 0 else None for n in group], pa.string()))


def _connected(manifest: pa.Table, distance: int) -> list[int]:
    """The component of each row; −1 for a row in error.

    Rows and what they share are the nodes of one graph: a row is tied to its patient, its bytes and its
    perceptual hash, and a hash to those near it.
    """
    known = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["sha256"]))
    rows = np.flatnonzero(known.to_numpy(zero_copy_only=False))
    edges, nodes = [], len(manifest)
    for column in (*JOINED_BY, "phash"):
        codes = manifest[column].combine_chunks().dictionary_encode()
        index = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)[rows]
        edges.append(np.stack([rows, nodes + index])[:, index >= 0])
        if column == "phash":
            used, values = np.unique(index[index >= 0]), codes.dictionary.to_pylist()
            hashes = np.array([int(values[i], 16) for i in used], np.uint64)
            edges.append(nodes + used[near_pairs(hashes, distance)])
        nodes += len(codes.dictionary)
    start, stop = np.concatenate(edges, axis=1)
    _, component = connected_components(coo_array((np.ones(len(start), bool), (start, stop)), (nodes, nodes)))
    found = np.full(len(manifest), -1)
    found[rows] = component[rows]
    return [int(n) for n in found]


def cut_groups(manifest: pa.Table, distance: int = DISTANCE) -> list[tuple[str, str, str, str, str]]:
    """Pairs of samples that hang together and stand on two sides: (column, sample, side, sample, side).

    The groups are worked out again from patients, bytes and hashes: a column `group` proves nothing.
    """
    component = _connected(manifest, distance)
    given = manifest["group"].to_pylist()
    found = []
    for column in ("split", "fold"):
        for keys in (component, given):
            first: dict[object, tuple[str, object]] = {}
            rows = zip(manifest["sample_id"].to_pylist(), keys, manifest[column].to_pylist(), strict=True)
            for sample_id, key, side in rows:
                if side is None or key in (None, -1):
                    continue
                other, theirs = first.setdefault(key, (sample_id, side))
                if theirs != side:
                    found.append((column, other, str(theirs), sample_id, str(side)))
    return list(dict.fromkeys(found))


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return the table with other values in one of its columns, cast to the column's type."""
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values.cast(field.type))
