"""Group and split sharded manifests, with the results that a manifest of one file gives.

Tasks read the shards and write new ones. The driver holds numbers: 8 bytes a row for each column that it works on, some
100 bytes a row with what sorting them takes, and a few numbers for each pair of candidates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.balance import Counts
from brainscale.dataset.columns import replace_column
from brainscale.dataset.groups import connect_rows
from brainscale.dataset.manifest import check_manifest
from brainscale.dataset.near_duplicates import SIMILARITY, pairs_of_rows
from brainscale.dataset.shard_columns import ManifestColumns
from brainscale.dataset.splits import (
    SPLITS,
    assign_groups_to,
    missing_groups,
    missing_labels,
    notice_of_many_groups,
    require_earlier_folds,
    require_earlier_splits,
    split_shares,
)
from brainscale.errors import ManifestError
from brainscale.seeds import derive
from brainscale.storage.shards import Shard, ShardedTable, finish_shards, prepare_folder, write_shard

_KEYS = 65_536  # groups whose random numbers one task makes


@dataclass(frozen=True)
class Groups:
    """The group of each row.

    Attributes:
        keys: the 16 digits of its name as a number, uint64 [rows].
        valid: which rows have a group, bool [rows].
    """

    keys: np.ndarray
    valid: np.ndarray

    def names(self) -> pa.Array:
        """Return the name of each row's group; null where it has none."""
        rows = zip(self.keys.tolist(), self.valid.tolist(), strict=True)
        return pa.array([f"{key:016x}" if valid else None for key, valid in rows], pa.string())


@dataclass(frozen=True, kw_only=True)
class SplitRequest:
    """How to split.

    Attributes:
        val: validation fraction.
        test: test fraction.
        folds: number of folds, instead of fractions; None for splits.
        seed: seed of the assignment.
        keep: manifest with an earlier split or earlier folds.
    """

    val: float
    test: float
    folds: int | None = None
    seed: int = 0
    keep: ManifestColumns | None = None

    @property
    def column(self) -> str:
        """The column that is filled."""
        return "split" if self.folds is None else "fold"

    @property
    def values(self) -> list[Any]:
        """All values that the column may have."""
        return list(SPLITS) if self.folds is None else list(range(self.folds))

    @property
    def shares(self) -> Mapping[Any, float]:
        """Value → its share of the samples."""
        if self.folds is None:
            return split_shares(self.val, self.test)
        return dict.fromkeys(range(self.folds), 1 / self.folds)


def find_groups(columns: ManifestColumns, similarity: float | None = SIMILARITY) -> Groups:
    """Return the group of each row, as `assign_groups` does; a row with an error has none.

    Args:
        columns: of the manifest.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.
    """
    readable = ~columns.valid("error_code") & columns.valid("sha256")
    near = pairs_of_rows(*columns.near_pairs(similarity), similarity)
    components = connect_rows(readable, columns.numbers, near)
    names = columns.keys("sha256")
    smallest = np.full(len(names), np.iinfo(np.uint64).max)
    np.minimum.at(smallest, components[readable], names[readable])
    return Groups(keys=smallest[np.maximum(components, 0)], valid=readable)


def read_groups(columns: ManifestColumns) -> Groups:
    """Return the group of each row as the manifest says it.

    Raises:
        ManifestError: a group has another name than `index` gives.
    """
    if not all(columns.run(_has_hash_names, columns.sources)):
        raise ManifestError(
            "the groups of a sharded manifest are 16 hexadecimal digits, and these are others: make them again with "
            "`brainscale split --regroup`"
        )
    return Groups(keys=columns.keys("group"), valid=columns.valid("group"))


def assign_rows(columns: ManifestColumns, groups: Groups, request: SplitRequest) -> tuple[np.ndarray, str | None]:
    """Return the place of each row's split or fold in `request.values`, int16 [rows], −1 for none; and a notice.

    Raises:
        ManifestError: there are no labels, too few groups of a class, or the earlier manifest cannot be used.
    """
    earlier = None if request.keep is None else _earlier_codes(columns, groups, request, request.keep)
    labels = columns.distinct("label")
    label_of_row = columns.codes("label", labels).astype(np.int64)
    used = ~columns.valid("error_code") & (label_of_row >= 0)
    without_group = np.flatnonzero(used & ~groups.valid)
    if len(without_group):
        raise missing_groups(len(without_group), columns.texts("sample_id", without_group[:1])[0])
    if not used.any():
        raise missing_labels()
    labels_used, label_of_row = np.unique(label_of_row[used], return_inverse=True)
    names, group_of_row = np.unique(groups.keys[used], return_inverse=True)
    cells = np.bincount(group_of_row * len(labels_used) + label_of_row, minlength=len(names) * len(labels_used))
    counts = cells.reshape(len(names), len(labels_used))
    keys = np.concatenate(list(columns.run(partial(_derive_keys, request.seed, request.column), _slices(names))))
    shares = request.shares
    kept, is_kept = np.full(len(names), -1), False
    if earlier is not None:
        kept_codes, is_kept = earlier[0](names), earlier[1]
        place = {request.values.index(value): n for n, value in enumerate(shares)}
        places = np.array([place.get(code, len(shares)) for code in range(len(request.values))] + [-1])
        kept = places[kept_codes]  # −1 takes the last
    names_of_labels = [labels[code] for code in labels_used.tolist()]
    assigned = assign_groups_to(
        shares, counts, names_of_labels, keys, kept, request.seed, request.column, is_kept=is_kept
    )
    code_of_place = np.array([*(request.values.index(value) for value in shares), -1])
    codes = code_of_place[assigned]
    if earlier is not None:
        codes = np.where(assigned == len(shares), kept_codes, codes)
    rows = np.full(len(used), -1, np.int16)
    rows[used] = codes[group_of_row]
    return rows, notice_of_many_groups(len(np.unique(groups.keys[groups.valid])))


def write_split(
    columns: ManifestColumns,
    out: str,
    groups: Groups | None,
    rows: np.ndarray,
    request: SplitRequest,
    origin: str | None = None,
) -> ShardedTable:
    """Write a sharded manifest with a new split, and new groups if they are given; `left_out` is cleared.

    Args:
        columns: of the old manifest.
        out: path or address of the folder.
        groups: new group of each row; None to leave the column as it is.
        rows: what `assign_rows` returned.
        request: how the rows were split.
        origin: as in `write_table`.

    Raises:
        OutputError: the folder cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    with prepare_folder(out) as folder:
        starts = columns.starts
        requests = [
            (
                source,
                folder,
                number,
                None if groups is None else Groups(groups.keys[low:high], groups.valid[low:high]),
                rows[low:high],
                request.column,
                request.values,
            )
            for number, (source, low, high) in enumerate(zip(columns.sources, starts, starts[1:], strict=False))
        ]
        table = finish_shards(folder, "manifest", list(columns.run(_write_shard, requests)), origin)
    return replace(table, location=out)


def split_shards(
    columns: ManifestColumns,
    out: str,
    request: SplitRequest,
    *,
    regroup: bool,
    similarity: float | None,
    origin: str | None = None,
) -> tuple[ShardedTable, str | None]:
    """Split a sharded manifest and write it, as `assign_splits` and `assign_folds` do; and return a notice.

    Args:
        columns: of the manifest.
        out: path or address of the folder to write.
        request: how to split.
        regroup: whether to make the groups again.
        similarity: minimum similarity of near duplicates for this; None: near duplicates are not looked for.
        origin: as in `write_table`.

    Raises:
        ManifestError: there are no labels, too few groups of a class, or the earlier manifest cannot be used.
        OutputError: the folder cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    groups = find_groups(columns, similarity) if regroup else read_groups(columns)
    rows, hashing = assign_rows(columns, groups, request)
    return write_split(columns, out, groups if regroup else None, rows, request, origin), hashing


def _derive_keys(seed: int, column: str, names: np.ndarray) -> Counts:
    return np.array([derive(seed, column, f"{name:016x}") for name in names.tolist()], np.int64)


def _slices(names: np.ndarray) -> Sequence[np.ndarray]:
    return [names[start : start + _KEYS] for start in range(0, len(names), _KEYS)]


def _earlier_codes(
    columns: ManifestColumns, groups: Groups, request: SplitRequest, keep: ManifestColumns
) -> tuple[Callable[[np.ndarray], np.ndarray], bool]:
    """Return names of groups → the place of the value that each keeps, −1 for none; and whether any group keeps one."""
    values = keep.distinct(request.column)
    if request.folds is None:
        require_earlier_splits(values)
    else:
        require_earlier_folds(max(values, default=None), request.folds)
    codes = keep.codes(request.column, request.values).astype(np.int64)
    known = (codes >= 0) & keep.valid("sha256")
    choose = _least if request.folds is None else partial(_most_common, values=len(request.values))
    contents, code_of_content = choose(keep.keys("sha256")[known], codes[known])
    rows = np.flatnonzero(groups.valid & columns.valid("sha256"))
    digests = columns.keys("sha256")[rows]
    places = np.minimum(np.searchsorted(contents, digests), max(0, len(contents) - 1))
    matches = contents[places] == digests if len(contents) else np.zeros(len(rows), bool)
    names, code_of_name = choose(groups.keys[rows[matches]], code_of_content[places[matches]])

    def codes_of(wanted: np.ndarray) -> np.ndarray:
        if not len(names):
            return np.full(len(wanted), -1)
        found = np.minimum(np.searchsorted(names, wanted), len(names) - 1)
        return np.where(names[found] == wanted, code_of_name[found], -1)

    return codes_of, bool(len(names))


def _least(keys: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys, sorted, and the least code of each."""
    names, inverse = np.unique(keys, return_inverse=True)
    least = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(least, inverse, codes)
    return names, least


def _most_common(keys: np.ndarray, codes: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys, sorted, and the most common code of each, the lowest of equals."""
    names, inverse = np.unique(keys, return_inverse=True)
    counts = np.bincount(inverse * values + codes, minlength=len(names) * values).reshape(-1, values)
    return names, counts.argmax(axis=1)


def _write_shard(request: tuple[ShardedTable, str, int, Groups | None, np.ndarray, str, list[Any]]) -> Shard:
    source, folder, number, groups, codes, column, values = request
    table = check_manifest(source.read(source.shards[0]), source.location)
    if groups is not None:
        table = replace_column(table, "group", groups.names())
    table = replace_column(table, "left_out", pa.nulls(len(table), pa.string()))
    assigned = pa.array(values, table.schema.field(column).type).take(pa.array(codes, mask=codes < 0))
    return write_shard(replace_column(table, column, assigned), folder, "manifest", number)


def _has_hash_names(source: ShardedTable) -> bool:
    groups = source.read(source.shards[0], ["group"])["group"].drop_null()
    return all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in pc.unique(groups).to_pylist())
