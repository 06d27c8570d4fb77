"""Groups that must not be cut, and splits and folds that never cut one.

A group is what hangs together by a patient, a series, the same bytes or nearly the same picture. Its side is a
function of (seed, group) alone, so other files, their order and their number play no part. Labels keep their
shares because each group's draw has the same chances, whatever its label: exact in the mean, not in each split.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.groups import DISTANCE, cut_groups, with_column
from brainscale.errors import ManifestError
from brainscale.seeds import derive

SPLITS = ("train", "val", "test")
TRIES = 100
"""Other seeds tried before a split is called impossible."""


def assign_splits(
    manifest: pa.Table, *, val: float, test: float, seed: int, keep: Mapping[str, str] | None = None
) -> pa.Table:
    """Fill the column `split` with train, val and test.

    Args:
        manifest: rows with group and label; rows in error or without a label get no split.
        val: share of the samples that chooses the model.
        test: share that nothing may look at before the end.
        seed: another seed gives another split.
        keep: sha256 → side of an earlier split. A group takes the side that its samples had; where they had
            several, train before val before test, so that nothing trained on is ever tested on.

    Raises:
        ManifestError: a label stands on no group of some side.
    """
    kept = _kept(manifest, keep or {})
    shares = {"test": test, "val": val, "train": 1 - val - test}
    shares = {side: share for side, share in shares.items() if share > 0}

    def sides(seed: int) -> dict[str, str]:
        return {group: kept.get(group) or _drawn(group, shares, seed) for group in labels}

    labels = _labels(manifest)
    assigned = _covering(sides, labels, list(shares), seed)
    return with_column(manifest, "split", _lookup(manifest, assigned, pa.string()))


def assign_folds(manifest: pa.Table, *, folds: int, seed: int) -> pa.Table:
    """Fill the column `fold` with 0 … folds − 1; arguments and errors as `split`."""
    shares = dict.fromkeys(map(str, range(folds)), 1 / folds)
    labels = _labels(manifest)
    assigned = _covering(lambda s: {g: _drawn(g, shares, s, "fold") for g in labels}, labels, list(shares), seed)
    numbers = {group: int(name) for group, name in assigned.items()}
    return with_column(manifest, "fold", _lookup(manifest, numbers, pa.int32()))


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """A manifest whose splits and folds cut no group.

    Attributes:
        verified: `split`, `fold`, or both.
        groups: groups in the manifest.
        cut: groups that are cut: none.
    """

    verified: str
    groups: int
    cut: int = 0


def verify_split(manifest: pa.Table, distance: int = DISTANCE) -> SplitCheck:
    """Check that no group of a manifest is cut by its splits or folds.

    Args:
        manifest: samples with splits or folds.
        distance: bits within which two perceptual hashes are near duplicates.

    Raises:
        ManifestError: a group is cut, or there is nothing to check.
    """
    dealt = [column for column in ("split", "fold") if manifest[column].null_count < len(manifest)]
    if not dealt:
        raise ManifestError("the manifest has neither splits nor folds: make some with `brainscale split`")
    if cut := cut_groups(manifest, distance):
        column, one, side, other, theirs = cut[0]
        raise ManifestError(
            f"{len(cut)} pair(s) of samples hang together and are kept apart: '{one}' is in {column} {side}, "
            f"'{other}' in {column} {theirs}; split again"
        )
    return SplitCheck(verified=" and ".join(dealt), groups=pc.count_distinct(manifest["group"]).as_py())


def splits_by_content(manifest: pa.Table) -> dict[str, str]:
    """sha256 → side of a split manifest.

    Raises:
        ManifestError: it is not split.
    """
    rows = manifest.filter(pc.is_valid(manifest["split"]))
    if not len(rows):
        raise ManifestError("the manifest to keep to is not split: name the one that `brainscale split` wrote")
    return dict(zip(rows["sha256"].to_pylist(), rows["split"].to_pylist(), strict=True))


def _labels(manifest: pa.Table) -> dict[str, set[str]]:
    """Group → the labels in it, for groups with any."""
    found: dict[str, set[str]] = defaultdict(set)
    for group, label in zip(manifest["group"].to_pylist(), manifest["label"].to_pylist(), strict=True):
        if group is not None and label is not None:
            found[group].add(label)
    if not found:
        raise ManifestError("no sample has a label: name the folders after classes, or set data.classes")
    return dict(sorted(found.items()))


def _kept(manifest: pa.Table, keep: Mapping[str, str]) -> dict[str, str]:
    """Group → the side that an earlier split gave its samples."""
    rank = {side: n for n, side in enumerate(SPLITS)}
    found: dict[str, str] = {}
    for group, digest in zip(manifest["group"].to_pylist(), manifest["sha256"].to_pylist(), strict=True):
        if group is not None and (side := keep.get(digest)):
            found[group] = min(found.get(group, side), side, key=rank.__getitem__)
    return found


def _drawn(group: str, shares: Mapping[str, float], seed: int, purpose: str = "split") -> str:
    """The side whose part of 0..1 holds the group's number."""
    number = derive(seed, purpose, group) / 2**63
    sides = zip(shares, accumulate(shares.values()), strict=True)
    return next((side for side, end in sides if number < end), list(shares)[-1])


def _covering(
    deal: Callable[[int], dict[str, str]], labels: Mapping[str, set[str]], sides: Sequence[str], seed: int
) -> dict[str, str]:
    """The deal of a seed, if every label stands on every side.

    Raises:
        ManifestError: names a seed that would do, if there is one near.
    """
    absent = _absent(deal(seed), labels, sides)
    if absent is None:
        return deal(seed)
    label, side = absent
    count = sum(label in names for names in labels.values())
    near = range(seed + 1, seed + 1 + TRIES)
    other = next((s for s in near if _absent(deal(s), labels, sides) is None), None) if count >= len(sides) else None
    remedy = "add images, or leave a part out" if other is None else f"seed {other} gives each side some"
    raise ManifestError(
        f"none of the {count} group(s) of label '{label}' falls to '{side}' with seed {seed}: {remedy} "
        "(--seed of `split`, split.seed of `train`)"
    )


def _absent(dealt: Mapping[str, str], labels: Mapping[str, set[str]], sides: Sequence[str]) -> tuple[str, str] | None:
    """The first label and side that do not meet."""
    met = {(label, dealt[group]) for group, names in labels.items() for label in names}
    known = sorted({label for names in labels.values() for label in names})
    return next(((label, side) for label in known for side in sides if (label, side) not in met), None)


def _lookup(manifest: pa.Table, assigned: Mapping[str, object], kind: pa.DataType) -> pa.Array:
    labelled = pc.is_valid(manifest["label"]).to_pylist()
    found: Sequence[object] = [
        assigned.get(group) if known and group is not None else None
        for group, known in zip(manifest["group"].to_pylist(), labelled, strict=True)
    ]
    return pa.array(found, kind)
