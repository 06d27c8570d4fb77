"""Columns of a sharded manifest as numbers, read by tasks: the driver never holds its strings or signatures.

A value becomes 64 bits: the first 16 digits of a hash of a content, and a hash of any other text. Two of ten
million values get the same number with a probability of 3 in a million.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import require_sound_signatures
from brainscale.dataset.near_duplicates import Map, NearPairs, compare_pairs, find_pairs
from brainscale.errors import ManifestError
from brainscale.reading.signature import SIDE
from brainscale.storage.shards import ShardedTable

BUCKET = 65_536
"""Candidate pairs that one task compares."""
BUCKETS_AT_A_TIME = 16
"""Buckets for which the signatures are under way at a time: at most 512 MiB of them."""

Shuffle = Callable[
    [Callable[[Any, list[Any]], list[Any]], Sequence[Any], list[list[Any]], Callable[[Any, list[Any]], Any], list[Any]],
    Iterator[Any],
]
"""Brings parts of every source together: takes `pick(source, requests)`, which gives a part for each bucket, the
sources, the requests of each source for each bucket, `combine(argument, parts)` and an argument for each bucket."""


@dataclass(frozen=True)
class ManifestColumns:
    """The columns of one or several sharded manifests, one after another.

    Attributes:
        tables: the manifests.
        run: applies a function to many arguments, perhaps in parallel.
        shuffle: brings parts of all shards together.
    """

    tables: Sequence[ShardedTable]
    run: Map
    shuffle: Shuffle

    @property
    def sources(self) -> list[ShardedTable]:
        """The shards, each as a table of its own, in the order of the rows."""
        return [replace(table, shards=(shard,)) for table in self.tables for shard in table.shards]

    @property
    def starts(self) -> np.ndarray:
        """First row of each shard, and the number of all rows, int64 [shards + 1]."""
        return np.cumsum([0, *(source.rows for source in self.sources)])

    def valid(self, column: str) -> np.ndarray:
        """Return which rows have a value, bool [rows]."""
        return self._collect(_read_valid, column, np.bool_)

    def keys(self, column: str) -> np.ndarray:
        """Return 64 bits for each row's value, uint64 [rows]; those of null mean nothing."""
        return self._collect(_read_keys, column, np.uint64)

    def numbers(self, column: str) -> np.ndarray:
        """Return a number for each row's value, int64 [rows]; −1 for null."""
        valid = self.valid(column)
        numbers = np.full(len(valid), -1, np.int64)
        _, numbers[valid] = np.unique(self.keys(column)[valid], return_inverse=True)
        return numbers

    def codes(self, column: str, values: Sequence[Any]) -> np.ndarray:
        """Return the place of each row's value in a list, int16 [rows]; −1 for null and any other value."""
        return self._collect(partial(_read_codes, values=list(values)), column, np.int16)

    def distinct(self, column: str) -> list[Any]:
        """Return the values of a column of few values, sorted, without null."""
        return sorted(set().union(*self.run(_read_distinct, ((source, column) for source in self.sources))))

    def texts(self, column: str, rows: np.ndarray) -> list[Any]:
        """Return the values of some rows, which are few."""
        rows, starts = np.asarray(rows, np.int64), self.starts
        wanted, inverse = np.unique(rows, return_inverse=True)
        bounds = np.searchsorted(wanted, starts)
        requests = [
            (source, column, wanted[low:high] - start)
            for source, start, low, high in zip(self.sources, starts, bounds, bounds[1:], strict=False)
            if high > low
        ]
        values = [value for part in self.run(_read_rows, requests) for value in part]
        return [values[place] for place in inverse.tolist()]

    def near_pairs(self, similarity: float | None) -> tuple[np.ndarray, NearPairs]:
        """Number the different signatures and return the pairs of similar ones, as `compare_signatures` does."""
        usable = ~self.valid("error_code") & self.valid("signature")
        rows = np.flatnonzero(usable)
        numbers = np.full(len(usable), -1, np.int64)
        _, start, inverse = np.unique(self.keys("signature")[rows], return_index=True, return_inverse=True)
        order = np.argsort(start, kind="stable")  # numbered as they come, as in a manifest of one file
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        numbers[rows] = rank[inverse]
        first_rows = rows[start[order]]
        if similarity is None or len(first_rows) < 2:
            return numbers, NearPairs(first=rows[:0], second=rows[:0], similarity=np.empty(0, np.float32))
        heads, images = (self.keys(column)[first_rows] for column in ("head_phash", "phash"))

        def compare(first: np.ndarray, second: np.ndarray, turns: np.ndarray) -> np.ndarray:
            parts = list(self._compare(first_rows[first], first_rows[second], turns))
            return np.concatenate([np.empty(0, np.float32), *parts])

        return numbers, find_pairs(heads, images, similarity, self.run, compare)

    def _compare(self, first: np.ndarray, second: np.ndarray, turns: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the similarities of pairs of rows: their signatures meet in a task for each bucket of pairs."""
        span = BUCKET * BUCKETS_AT_A_TIME
        for begin in range(0, len(first), span):
            arguments, wanted = [], []
            for start in range(begin, min(begin + span, len(first)), BUCKET):
                chunk = slice(start, min(start + BUCKET, begin + span))
                rows, inverse = np.unique(np.concatenate([first[chunk], second[chunk]]), return_inverse=True)
                arguments.append((*np.split(inverse, 2), turns[chunk]))
                wanted.append(rows)
            bounds = [np.searchsorted(rows, self.starts) for rows in wanted]
            requests = [
                [rows[b[n] : b[n + 1]] - start for rows, b in zip(wanted, bounds, strict=True)]
                for n, start in enumerate(self.starts[:-1])
            ]
            yield from self.shuffle(_pick_signatures, self.sources, requests, _compare_bucket, arguments)

    def _collect(self, read: Callable[[Any], np.ndarray], column: str, kind: type) -> np.ndarray:
        """Return what a function gives for each row, one shard at a time, in one array."""
        values: np.ndarray = np.empty(int(self.starts[-1]), kind)
        row = 0
        for part in self.run(read, ((source, column) for source in self.sources)):
            values[row : row + len(part)] = part
            row += len(part)
        return values


HASHES = ("sha256", "group", "phash", "head_phash")
"""Columns whose values are hashes in hexadecimal digits, of which the first 16 count."""
_HASH = re.compile("^[0-9a-f]{16,}$")


def keys_of(values: pa.ChunkedArray, column: str) -> np.ndarray:
    """Return 64 bits for each value of a column, uint64 [rows]: equal for equal values."""
    if not len(values):
        return np.empty(0, np.uint64)
    if pa.types.is_binary(values.type):
        return _mix_signatures(values)
    texts = values.cast(pa.string()).fill_null("0" * 16).combine_chunks()
    if column in HASHES and pc.all(pc.match_substring_regex(texts, _HASH.pattern)).as_py():
        digits = "".join(pc.utf8_slice_codeunits(texts, 0, 16).to_pylist())
        return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
    encoded = texts.dictionary_encode()
    keys = np.array([_key_of(text, column) for text in encoded.dictionary.to_pylist()], np.uint64)
    return np.asarray(keys[encoded.indices.to_numpy()])


def _key_of(text: str, column: str) -> int:
    if column in HASHES and _HASH.match(text):
        return int(text[:16], 16)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _mix_signatures(column: pa.ChunkedArray) -> np.ndarray:
    """Return a hash of each signature: its words, each mixed with its place as in SplitMix64, added up and mixed."""
    content = b"".join(column.fill_null(bytes(SIDE * SIDE)).to_pylist())
    words = np.frombuffer(content, np.uint64).reshape(len(column), -1)
    total = np.zeros(len(words), np.uint64)
    for place in range(words.shape[1]):
        total = _mix(total + words[:, place] + np.uint64(0x9E3779B97F4A7C15))
    return total


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ values >> np.uint64(31))


def _read(request: tuple[ShardedTable, str]) -> pa.ChunkedArray:
    source, column = request
    columns = ["sample_id", "signature", "phash", "head_phash"] if column == "signature" else [column]
    table = source.read(source.shards[0], columns)
    if missing := [name for name in columns if name not in table.column_names]:
        raise ManifestError(
            f"{source.location} is not a manifest (it has no column {missing[0]}): index the source again"
        )
    if column == "signature":
        require_sound_signatures(table, source.location)
    return table[column]


def _read_valid(request: tuple[ShardedTable, str]) -> np.ndarray:
    return np.asarray(_read(request).is_valid().to_numpy())


def _read_keys(request: tuple[ShardedTable, str]) -> np.ndarray:
    return keys_of(_read(request), request[1])


def _read_codes(request: tuple[ShardedTable, str], values: Sequence[Any]) -> np.ndarray:
    column = _read(request)
    places = pc.fill_null(pc.index_in(column, pa.array(values, column.type)), -1)
    return np.asarray(places.to_numpy().astype(np.int16))


def _read_distinct(request: tuple[ShardedTable, str]) -> set[Any]:
    return set(pc.unique(_read(request).drop_null()).to_pylist())


def _read_rows(request: tuple[ShardedTable, str, np.ndarray]) -> list[Any]:
    source, column, rows = request
    values: list[Any] = _read((source, column)).take(pa.array(rows)).to_pylist()
    return values


def _pick_signatures(source: ShardedTable, requests: list[np.ndarray]) -> list[np.ndarray]:
    """Return the signatures of some rows of a shard for each bucket, uint8 [n, 16, 16]."""
    if not any(map(len, requests)):
        return [np.empty((0, SIDE, SIDE), np.uint8) for _ in requests]
    column = source.read(source.shards[0], ["signature"])["signature"]
    picked = (column.take(pa.array(rows)).to_pylist() for rows in requests)
    return [np.frombuffer(b"".join(values), np.uint8).reshape(-1, SIDE, SIDE) for values in picked]


def _compare_bucket(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], parts: list[np.ndarray]) -> np.ndarray:
    first, second, turns = pairs
    signatures = np.concatenate(parts)
    return compare_pairs((signatures[first], signatures[second], turns))


def shuffle_here(
    pick: Callable[[Any, list[Any]], list[Any]],
    sources: Sequence[Any],
    requests: list[list[Any]],
    combine: Callable[[Any, list[Any]], Any],
    arguments: list[Any],
) -> Iterator[Any]:
    """Bring parts of every source together in this process (see `Shuffle`)."""
    parts = [pick(source, request) for source, request in zip(sources, requests, strict=True)]
    return (combine(argument, [part[n] for part in parts]) for n, argument in enumerate(arguments))
