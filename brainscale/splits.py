"""Groups that must not be cut, and splits and folds that never cut one.

Today a group is one content: samples with the same bytes. The assignment is a function of (seed, group)
within each label, never of the order of a listing.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import ManifestError
from brainscale.seeds import derive

SPLITS = ("train", "val", "test")


def groups(manifest: pa.Table) -> pa.Table:
    """Fill the column `group`: the first 16 digits of sha256; null for a row in error."""
    known = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["sha256"]))
    ids = pc.utf8_slice_codeunits(manifest["sha256"], 0, 16)
    return _set(manifest, "group", pc.if_else(known, ids, None))


def split(manifest: pa.Table, *, val: float, test: float, seed: int) -> pa.Table:
    """Fill the column `split` with train, val and test, stratified by label.

    Args:
        manifest: rows with group and label; rows in error or without a label get no split.
        val: share of the samples that chooses the model.
        test: share that nothing may look at before the end.
        seed: another seed gives another split.

    Raises:
        ManifestError: a label has too few groups to stand on every side.
    """
    shares = {"test": test, "val": val, "train": 1 - val - test}
    shares = {side: share for side, share in shares.items() if share > 0}
    assigned: dict[str, str] = {}
    for label, sizes in _by_label(manifest).items():
        if len(sizes) < len(shares):
            raise ManifestError(
                f"label '{label}' has {len(sizes)} distinct image(s), too few for {', '.join(shares)}: "
                "add images, or leave a part out (--test 0)"
            )
        assigned |= _deal(sizes, shares, seed, label)
    return _set(manifest, "split", _lookup(manifest, assigned, pa.string()))


def fold(manifest: pa.Table, *, folds: int, seed: int) -> pa.Table:
    """Fill the column `fold` with 0 … folds − 1, stratified by label; arguments and errors as `split`."""
    assigned: dict[str, int] = {}
    for label, sizes in _by_label(manifest).items():
        if len(sizes) < folds:
            raise ManifestError(f"label '{label}' has {len(sizes)} distinct image(s), too few for {folds} folds")
        shares = dict.fromkeys(map(str, range(folds)), 1 / folds)
        assigned |= {group: int(k) for group, k in _deal(sizes, shares, seed, label).items()}
    return _set(manifest, "fold", _lookup(manifest, assigned, pa.int32()))


def _by_label(manifest: pa.Table) -> dict[str, dict[str, int]]:
    """Label → {group: samples}; a group with two labels stands under the label of its first sample."""
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    home: dict[str, str] = {}
    columns = (manifest[name].to_pylist() for name in ("sample_id", "group", "label"))
    for _, group, label in sorted(zip(*columns, strict=True)):
        if group is not None and label is not None:
            sizes[home.setdefault(group, label)][group] += 1
    if not sizes:
        raise ManifestError("no sample has a label: name the folders after classes, or set data.classes")
    return {label: dict(sizes[label]) for label in sorted(sizes)}


def _deal(sizes: Mapping[str, int], shares: Mapping[str, float], seed: int, label: str) -> dict[str, str]:
    """Give each group to the side that lacks most of its share, groups in a seeded order, largest first.

    Each side gets one group at least.
    """
    order = sorted(sizes, key=lambda group: (-sizes[group], derive(seed, "split", label, group)))
    wanted = {side: share * sum(sizes.values()) for side, share in shares.items()}
    have = dict.fromkeys(shares, 0)
    assigned = {}
    for position, group in enumerate(order):
        empty = [side for side in shares if not have[side]]
        open_sides = empty if len(order) - position <= len(empty) else list(shares)
        side = max(open_sides, key=lambda s: wanted[s] - have[s])
        have[side] += sizes[group]
        assigned[group] = side
    return assigned


def _lookup(manifest: pa.Table, assigned: Mapping[str, object], kind: pa.DataType) -> pa.Array:
    labelled = pc.is_valid(manifest["label"]).to_pylist()
    found: Sequence[object] = [
        assigned.get(group) if known and group is not None else None
        for group, known in zip(manifest["group"].to_pylist(), labelled, strict=True)
    ]
    return pa.array(found, kind)


def _set(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, values.cast(field.type))
