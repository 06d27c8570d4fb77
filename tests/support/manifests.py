"""Manifests of made-up files, for what groups and splits."""

import pyarrow as pa

from brainscale.dataset.groups import assign_groups
from brainscale.schema import MANIFEST


def manifest(rows: list[tuple[int, str | None, bool]]) -> pa.Table:
    """content, label, in error → a manifest; equal contents are copies."""
    full = [
        dict.fromkeys(MANIFEST.names)
        | {
            "sample_id": f"{i:03d}.png",
            "uri": f"/x/{i}",
            "sha256": f"{content:064x}"[::-1],
            "label": label,
            "error_code": "corrupt" if bad else None,
        }
        for i, (content, label, bad) in enumerate(rows)
    ]
    return assign_groups(pa.Table.from_pylist(full, schema=MANIFEST))
