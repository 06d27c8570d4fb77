"""Choose the patients of a manifest in shards, as `find_patients` does: what needs all rows is found from numbers.

Shards that are not finished hold in columns of their own what may name a sample's patient (`CANDIDATES`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import replace_column
from brainscale.dataset.patients import (
    BIDS_SOURCE,
    HEADER_SOURCE,
    TYING_SERIES,
    TYING_SHARE,
    Candidates,
    describe_tying,
)
from brainscale.dataset.shard_columns import ManifestColumns
from brainscale.reading.sample_ids import split_id
from brainscale.storage.shards import ShardedTable

BY_FILE, BY_PATTERN, BY_HEADER, ISSUED, BY_BIDS, WORDS = CANDIDATES = tuple(
    f"_patient_{name}" for name in ("by_file", "by_pattern", "by_header", "with_issuer", "by_bids", "placeholder")
)
"""Columns of a shard that is not finished; see `patients.Candidates`."""


def add_candidates(manifest: pa.Table, candidates: Candidates, with_issuer: pa.ChunkedArray) -> pa.Table:
    """Return rows of a manifest with the columns `CANDIDATES`.

    Args:
        manifest: rows of a manifest.
        candidates: of these rows.
        with_issuer: keyed hash of each row's identifier and its issuer.
    """
    by_file, by_pattern, by_header, by_bids = (
        pa.array(values, pa.string())
        for values in (candidates.by_file, candidates.by_pattern, candidates.by_header, candidates.by_bids)
    )
    columns = (by_file, by_pattern, by_header, with_issuer, by_bids, pa.array(candidates.words, pa.string()))
    for name, values in zip(CANDIDATES, columns, strict=True):
        manifest = manifest.append_column(name, values)
    return manifest


@dataclass(frozen=True, kw_only=True)
class PatientChoice:
    """What the candidates of all rows together decide.

    Attributes:
        usual: hash of a patient's identifier that several issuers gave → hash with its most frequent issuer.
        placeholders: column of `CANDIDATES` → the identifier in it that is a placeholder.
        notices: messages for the user, one line each.
    """

    usual: Mapping[str, str]
    placeholders: Mapping[str, str]
    notices: Sequence[str]

    def apply(self, table: pa.Table) -> pa.Table:
        """Return rows with their patients, and without the columns of the candidates but the placeholders.

        Args:
            table: a shard that is not finished.
        """
        by_header = table[BY_HEADER]
        if self.usual:
            issued = zip(by_header.to_pylist(), table[ISSUED].to_pylist(), strict=True)
            resolved = [issuer or self.usual[name] if name in self.usual else name for name, issuer in issued]
            by_header = pa.chunked_array([pa.array(resolved, pa.string())])
        values = {BY_FILE: table[BY_FILE], BY_PATTERN: table[BY_PATTERN], BY_HEADER: by_header, BY_BIDS: table[BY_BIDS]}
        for column, placeholder in self.placeholders.items():
            is_real = pc.fill_null(pc.not_equal(values[column], placeholder), False)
            values[column] = pc.if_else(is_real, values[column], pa.scalar(None, pa.string()))
        patients = pc.coalesce(*values.values()).combine_chunks()
        return replace_column(table, "patient", patients).drop_columns([name for name in CANDIDATES if name != WORDS])


@dataclass(frozen=True)
class ColumnsWithPatients(ManifestColumns):
    """The columns of shards that are not finished, with the patients that were chosen.

    Attributes:
        patients: 64 bits for each row's patient, uint64 [rows].
        known: which rows have a patient, bool [rows].
    """

    patients: np.ndarray = field(kw_only=True)
    known: np.ndarray = field(kw_only=True)

    def valid(self, column: str) -> np.ndarray:
        """Return which rows have a value, bool [rows]."""
        return self.known if column == "patient" else super().valid(column)

    def keys(self, column: str) -> np.ndarray:
        """Return 64 bits for each row's value, uint64 [rows]; those of null mean nothing."""
        return self.patients if column == "patient" else super().keys(column)


def choose_patients(
    columns: ManifestColumns, *, is_pattern: bool, file: str | None
) -> tuple[PatientChoice, ColumnsWithPatients]:
    """Choose the patients of all rows.

    Args:
        columns: of shards that are not finished.
        is_pattern: whether a pattern names patients, instead of headers and BIDS names.
        file: path of the label file, if its column of patients may hold placeholders that all rows share.
    """
    rows = int(columns.starts[-1])
    series = _Series(columns)
    usual: dict[str, str] = {}
    placeholders: dict[str, str] = {}
    notices: list[str] = []
    patients, known = np.zeros(rows, np.uint64), np.zeros(rows, bool)
    sources = {BY_FILE: f"patient in {file}" if file else None}
    sources |= {BY_PATTERN: None} if is_pattern else {BY_HEADER: HEADER_SOURCE, BY_BIDS: BIDS_SOURCE}
    for column, what in sources.items():
        valid = columns.valid(column)
        if not valid.any():
            continue
        keys = columns.keys(column)
        if column == BY_HEADER:
            usual = _resolve_issuers(columns, keys, valid)
        valid &= ~known
        tying = series.find_tying(keys, valid) if what else None
        if what and tying:
            row, members, shared, total = tying
            notices.append(describe_tying(what, len(members), rows, shared, total))
            name = columns.texts(column, np.array([row]))[0]
            if name in usual and column == BY_HEADER:
                name = columns.texts(ISSUED, np.array([row]))[0] or usual[name]
            placeholders[column] = name
            valid[members] = False
        patients[valid] = keys[valid]
        known |= valid
    choice = PatientChoice(usual=usual, placeholders=placeholders, notices=notices)
    return choice, ColumnsWithPatients(columns.tables, columns.run, columns.shuffle, patients=patients, known=known)


def _resolve_issuers(columns: ManifestColumns, keys: np.ndarray, valid: np.ndarray) -> dict[str, str]:
    """Put into `keys` what stands for each row's patient, and return the usual issuer of those that have several."""
    is_issued = columns.valid(ISSUED) & valid
    rows = np.flatnonzero(is_issued)
    if not len(rows):
        return {}
    issued = columns.keys(ISSUED)
    pairs, first, counts = np.unique(
        np.stack([keys[rows], issued[rows]], axis=1), axis=0, return_index=True, return_counts=True
    )
    several = np.flatnonzero(np.isin(pairs[:, 0], _repeated(pairs[:, 0])))
    if not len(several):
        return {}
    names, issuers = (columns.texts(column, rows[first[several]]) for column in (BY_HEADER, ISSUED))
    usual: dict[str, tuple[int, str, int]] = {}
    key_of: dict[str, int] = {}
    for name, issuer, pair in zip(names, issuers, several.tolist(), strict=True):
        found = -int(counts[pair]), issuer, int(pairs[pair, 1])
        usual[name] = min(found, usual.get(name, found))
        key_of[name] = int(pairs[pair, 0])
    shared = np.array(list(key_of.values()), np.uint64)
    order = np.argsort(shared)
    shared, stand_ins = shared[order], np.array([usual[name][2] for name in key_of], np.uint64)[order]
    places = np.minimum(np.searchsorted(shared, keys), len(shared) - 1)
    is_shared = valid & (shared[places] == keys)
    keys[is_shared] = np.where(is_issued, issued, stand_ins[places])[is_shared]
    return {name: issuer for name, (_, issuer, _) in usual.items()}


def _repeated(sorted_keys: np.ndarray) -> np.ndarray:
    repeats: np.ndarray = sorted_keys[1:][sorted_keys[1:] == sorted_keys[:-1]]
    return repeats


class _Series:
    """What tells series and files apart, read when it is first needed."""

    def __init__(self, columns: ManifestColumns) -> None:
        self._columns = columns
        self._numbers: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def find_tying(self, keys: np.ndarray, valid: np.ndarray) -> tuple[int, np.ndarray, int, int] | None:
        """Look for one identifier that nearly all series or files share although their labels differ.

        Returns:
            Its first row, all its rows, the number of its series and that of all; None if there is none.
        """
        readable, series, labels = self._read()
        total = len(np.unique(series[readable]))
        rows = np.flatnonzero(valid & readable)
        if not len(rows) or total < TYING_SERIES:
            return None
        _, first, names = np.unique(keys[rows], return_index=True, return_inverse=True)
        pairs = np.unique(names * (int(series.max()) + 1) + series[rows])
        counts = np.bincount(pairs // (int(series.max()) + 1), minlength=len(first))
        most = np.flatnonzero(counts == counts.max())
        tying = most[np.argmin(first[most])]
        row = int(rows[first[tying]])
        members = np.flatnonzero(valid & (keys == keys[row]))
        named = labels[members]
        if counts[tying] < TYING_SHARE * total or len(np.unique(named[named >= 0])) < 2:
            return None
        return row, members, int(counts[tying]), total

    def _read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._numbers is None:
            columns = self._columns
            keys = np.concatenate(list(columns.run(_read_series, columns.sources)))
            _, series = np.unique(keys, return_inverse=True)
            self._numbers = ~columns.valid("error_code"), series, columns.codes("label", columns.distinct("label"))
        return self._numbers


def _read_series(source: ShardedTable) -> np.ndarray:
    """Return 64 bits for each row's series or, where it has none, its file, uint64 [rows]."""
    table = source.read(source.shards[0], ["sample_id", "scan"])
    keys = np.empty(len(table), np.uint64)
    for row, (sample_id, scan) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
        text = f"scan {scan}" if scan else f"file {split_id(sample_id)[:2]}"
        keys[row] = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return keys
