"""Find the samples that must stay in one split: those of one patient or series, duplicates and near duplicates."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from brainscale.dataset.hamming import find_near_pairs

DISTANCE = 4
"""Maximum Hamming distance between the 64-bit perceptual hashes of near duplicates.

Measured on 253 public scans with 47 duplicates, re-encoded and resized ones included: distance 0 leaves 216 groups,
2 leaves 208, 4 leaves 206, and 10 leaves 191.
"""
JOINED_BY = ("patient", "scan", "sha256")
"""Columns whose equal values put samples into one group."""


def assign_groups(manifest: pa.Table, distance: int = DISTANCE) -> pa.Table:
    """Fill the column `group`; a row with an error gets no group.

    A group is named after the first 16 digits of its smallest sha256, so neither the patient key nor the order of the
    rows changes its name.

    Args:
        manifest: table with the columns patient, scan, sha256, phash and error_code.
        distance: maximum Hamming distance, in bits, between the perceptual hashes of near duplicates.
    """
    components = _connected_components(manifest, distance)
    smallest: dict[int, str] = {}
    for component, digest in zip(components, manifest["sha256"].to_pylist(), strict=True):
        if component >= 0:
            smallest[component] = min(smallest.get(component, digest), digest)
    names = [smallest[component][:16] if component >= 0 else None for component in components]
    return replace_column(manifest, "group", pa.array(names, pa.string()))


def _connected_components(manifest: pa.Table, distance: int) -> list[int]:
    """Return the number of each row's connected component; −1 for a row with an error.

    The nodes of the graph are the rows and the values that they share. Edges join a row to its patient, series,
    content and perceptual hash, and a perceptual hash to every other within `distance`.
    """
    is_readable = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["sha256"]))
    rows = np.flatnonzero(is_readable.to_numpy(zero_copy_only=False))
    edges, node_count = [], len(manifest)
    for column in (*JOINED_BY, "phash"):
        codes = manifest[column].combine_chunks().dictionary_encode()
        index = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)[rows]
        edges.append(np.stack([rows, node_count + index])[:, index >= 0])
        if column == "phash":
            used, values = np.unique(index[index >= 0]), codes.dictionary.to_pylist()
            hashes = np.array([int(values[i], 16) for i in used], np.uint64)
            edges.append(node_count + used[find_near_pairs(hashes, distance)])
        node_count += len(codes.dictionary)
    start, stop = np.concatenate(edges, axis=1)
    shape = (node_count, node_count)
    _, component_of_node = connected_components(coo_array((np.ones(len(start), bool), (start, stop)), shape))
    components = np.full(len(manifest), -1)
    components[rows] = component_of_node[rows]
    return [int(component) for component in components]


@dataclass(frozen=True, kw_only=True)
class SplitViolation:
    """Two samples of one group that are in different splits or folds.

    Attributes:
        column: `split` or `fold`.
        first_id: sample id of the first.
        first_split: split or fold of the first.
        second_id: sample id of the second.
        second_split: split or fold of the second.
    """

    column: str
    first_id: str
    first_split: str
    second_id: str
    second_split: str


def find_split_violations(manifest: pa.Table, distance: int = DISTANCE) -> list[SplitViolation]:
    """Return the pairs of samples that belong to one group but are in different splits or folds.

    Groups are computed again from patients, series, contents and hashes, because the column `group` may be wrong.
    """
    components = _connected_components(manifest, distance)
    violations = []
    for column in ("split", "fold"):
        for groups in (components, manifest["group"].to_pylist()):
            first_of_group: dict[object, tuple[str, object]] = {}
            rows = zip(manifest["sample_id"].to_pylist(), groups, manifest[column].to_pylist(), strict=True)
            for sample_id, group, split in rows:
                if split is None or group in (None, -1):
                    continue
                first_id, first_split = first_of_group.setdefault(group, (sample_id, split))
                if first_split != split:
                    violations.append(
                        SplitViolation(
                            column=column,
                            first_id=first_id,
                            first_split=str(first_split),
                            second_id=sample_id,
                            second_split=str(split),
                        )
                    )
    return list(dict.fromkeys(violations))


def replace_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return the table with new values in one column, cast to the type of that column."""
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values.cast(field.type))
