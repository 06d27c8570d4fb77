"""Unite the manifests of several models: what any of them has seen, and what none has."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import number_values, replace_column
from brainscale.dataset.manifest import check_manifest, manifest_fingerprint
from brainscale.schema import MANIFEST

STRONGEST = ("test", "val", "train")
"""Splits by how much a model has seen of them, rising."""


def unite_manifests(manifests: Sequence[pa.Table]) -> pa.Table:
    """Return one manifest for models of several; equal manifests are their own union.

    A content that trained any model is `train`; one that validated some and trained none is `val`; one that tested some
    and that no model has seen is `test`. Of a sample in several manifests, the first row counts for everything else. Of
    different samples with one name, each gets the beginning of its hash before the name.

    Args:
        manifests: one or more manifests.
    """
    if len({manifest_fingerprint(manifest) for manifest in manifests}) == 1:
        return manifests[0]
    names = [*MANIFEST.names, *_common_columns(manifests)]
    rows = pa.concat_tables([table.select(names) for table in manifests])
    splits = _strongest_splits(rows)
    rows = replace_column(rows, "split", splits)
    rows = replace_column(rows, "fold", pa.nulls(len(rows), pa.int32()))  # of which cross-validation would it be?
    is_used = pc.is_valid(splits)
    rows = replace_column(rows, "left_out", pc.if_else(is_used, pa.scalar(None, pa.string()), rows["left_out"]))
    contents = pc.fill_null(rows["sha256"], "")
    identities = pa.table({"identity": pc.binary_join_element_wise(rows["sample_id"], contents, "\n")})
    _, first = np.unique(number_values(identities, "identity"), return_index=True)
    return check_manifest(_with_unique_ids(rows.take(pa.array(np.sort(first)))), "the union of the manifests")


def _common_columns(manifests: Sequence[pa.Table]) -> list[str]:
    """Return the further columns that all manifests have with the same type."""
    first, *others = (manifest.schema for manifest in manifests)
    return [
        field.name
        for field in first
        if field.name not in MANIFEST.names
        and all(field.name in other.names and other.field(field.name).type == field.type for other in others)
    ]


def _strongest_splits(rows: pa.Table) -> pa.Array:
    """Return for each row the strongest split of all rows with its content; without a hash, with its name."""
    frames = pc.fill_null(rows["frame"].cast(pa.string()), "")
    keys = pc.binary_join_element_wise(pc.coalesce(rows["sha256"], rows["sample_id"]), frames, "\n")
    content_of = number_values(pa.table({"key": keys}), "key")
    ranks = np.asarray(pc.index_in(rows["split"], pa.array(STRONGEST)).fill_null(-1).to_numpy(), np.int64)
    strongest = np.full(content_of.max(initial=0) + 1, -1)
    np.maximum.at(strongest, content_of, ranks)
    found = strongest[content_of]
    return pa.array(STRONGEST).take(pa.array(found, pa.int64(), mask=found < 0))


def _with_unique_ids(rows: pa.Table) -> pa.Table:
    """Return the rows; where one name is that of different contents, each content's hash begins its names."""
    numbers = number_values(rows, "sample_id")
    is_shared = pa.array(np.bincount(numbers)[numbers] > 1)
    hashes = pc.utf8_slice_codeunits(pc.fill_null(rows["sha256"], "unread"), 0, 8)
    names = pc.binary_join_element_wise(hashes, rows["sample_id"], "/")
    return replace_column(rows, "sample_id", pc.if_else(is_shared, names, rows["sample_id"]).combine_chunks())
