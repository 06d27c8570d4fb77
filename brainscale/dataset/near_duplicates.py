"""Find near duplicates: images of one scan, whatever their size, margin, brightness, encoding or orientation.

Hashes of the whole image and of the head propose pairs; a comparison of the aligned signatures confirms them. A
hash alone joins unrelated heads at a constant rate for each pair, so that in a large set most images would end up in
one group.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale import progress
from brainscale.dataset.candidates import ORIENTATIONS, ROUNDS, find_candidates, orient, orient_hashes
from brainscale.dataset.registration import similarities
from brainscale.reading.signature import SIDE

SIMILARITY = 0.97
"""Similarity of signatures from which two images are near duplicates.

Chosen on transformed copies of scans and phantoms (benchmarks/duplicates.py): most neighbouring slices of a volume
and all other pairs of different scans are below it.
"""
DISTANCE_OF_IMAGES = 6
"""Maximum Hamming distance of candidates, in bits of 64, between the hashes of whole images."""
DISTANCE_OF_HEADS, DISTANCE_OF_HEADS_OF_MANY, MANY = 14, 10, 5_000
"""The same between the hashes of the heads, in sets of few images and of more than `MANY`, where more pairs are close
by chance."""
_SCREEN = 0.85  # similarity after one coarse step below which a pair is not looked at again
_CHUNK = 32_768  # candidate pairs of one task

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""Applies a function to many arguments: the built-in `map`, or one that runs tasks on Ray."""
Compare = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Takes the numbers of two signatures, and the orientation of the first, for many pairs; gives their similarities."""


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of near duplicates.

    Attributes:
        first: int64 [pairs], row of one image.
        second: int64 [pairs], row of the other, always larger.
        similarity: float32 [pairs], 1 for equal signatures.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def where(self, chosen: np.ndarray) -> "NearPairs":
        """Return the pairs for which `chosen` (bool [pairs]) holds."""
        return NearPairs(first=self.first[chosen], second=self.second[chosen], similarity=self.similarity[chosen])


def find_near_duplicates(manifest: pa.Table, similarity: float | None = SIMILARITY, run: Map = map) -> NearPairs:
    """Return the pairs of near duplicates among the readable samples of a manifest.

    Of images with equal signatures, only the first is paired with other images, and each other one with the first.

    Args:
        manifest: table with the columns error_code, phash, head_phash and signature. Rows without a signature have
            no near duplicates.
        similarity: minimum similarity; None finds nothing.
        run: applies a function to many arguments, perhaps in parallel.

    Returns:
        Pairs of row numbers.
    """
    numbers, pairs = compare_signatures(manifest, similarity, run)
    return pairs_of_rows(numbers, pairs, similarity)


def pairs_of_rows(numbers: np.ndarray, pairs: NearPairs, similarity: float | None) -> NearPairs:
    """Return pairs of rows for pairs of signatures; rows of one signature are paired with the first of them.

    Args:
        numbers: int64 [rows], number of each row's signature; −1 without one.
        pairs: pairs of these numbers.
        similarity: minimum similarity; None finds nothing.
    """
    rows = np.flatnonzero(numbers >= 0)
    _, start = np.unique(numbers[rows], return_index=True)
    first_row = rows[start]
    copies = rows[first_row[numbers[rows]] != rows]
    if similarity is None:
        copies = copies[:0]
    ends = first_row[pairs.first], first_row[pairs.second]
    return NearPairs(
        first=np.concatenate([np.minimum(*ends), first_row[numbers[copies]]]),
        second=np.concatenate([np.maximum(*ends), copies]),
        similarity=np.concatenate([pairs.similarity, np.ones(len(copies), np.float32)]),
    )


def compare_signatures(manifest: pa.Table, similarity: float | None, run: Map = map) -> tuple[np.ndarray, NearPairs]:
    """Number the different signatures of a manifest and return the pairs of similar ones.

    Args:
        manifest: table with the columns error_code, phash, head_phash and signature.
        similarity: minimum similarity; None finds nothing.
        run: applies a function to many arguments, perhaps in parallel.

    Returns:
        The number of each row's signature, int64 [rows], −1 for a row in error or without one; and pairs of numbers.
    """
    usable = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["signature"]))
    rows = np.flatnonzero(usable.to_numpy(zero_copy_only=False))
    numbers = np.full(len(manifest), -1, np.int64)
    if not len(rows):
        return numbers, NearPairs(first=rows, second=rows, similarity=np.empty(0, np.float32))
    encoded = manifest["signature"].take(pa.array(rows)).combine_chunks().dictionary_encode()
    numbers[rows] = encoded.indices.to_numpy()
    _, start = np.unique(numbers[rows], return_index=True)
    signatures = np.frombuffer(b"".join(encoded.dictionary.to_pylist()), np.uint8).reshape(-1, SIDE, SIDE)
    if similarity is None or len(signatures) < 2:
        return numbers, NearPairs(first=rows[:0], second=rows[:0], similarity=np.empty(0, np.float32))
    heads, images = (_read_hashes(manifest, name, rows[start]) for name in ("head_phash", "phash"))

    def compare(first: np.ndarray, second: np.ndarray, turns: np.ndarray) -> np.ndarray:
        chunks = run(compare_pairs, _cut(signatures, first, second, turns))
        told = progress.each(chunks, "grouping: comparing pairs", len(first), "pairs", len)
        return np.concatenate([np.empty(0, np.float32), *told])

    return numbers, find_pairs(heads, images, similarity, run, compare)


def _read_hashes(manifest: pa.Table, column: str, rows: np.ndarray) -> np.ndarray:
    """Return the hashes of some rows, uint64 [rows]."""
    return np.array([int(text, 16) for text in manifest[column].take(pa.array(rows)).to_pylist()], np.uint64)


def find_pairs(heads: np.ndarray, images: np.ndarray, similarity: float, run: Map, compare: Compare) -> NearPairs:
    """Propose pairs of different signatures by their hashes, and keep those that are similar.

    Args:
        heads: uint64 [n], hashes of the heads.
        images: uint64 [n], hashes of the whole images.
        similarity: minimum similarity.
        run: applies a function to many arguments.
        compare: gives the similarities of pairs.
    """
    distance_of_heads = DISTANCE_OF_HEADS_OF_MANY if len(heads) > MANY else DISTANCE_OF_HEADS
    searches = [
        (hashes, distance, number)
        for hashes, distance in ((heads, distance_of_heads), (images, DISTANCE_OF_IMAGES))
        for number in range(ROUNDS)
    ]
    found = np.empty(0, np.int64)
    for more in progress.each(run(_search, searches), "grouping: looking for near duplicates", len(searches), "rounds"):
        found = np.union1d(found, more)
    first, second = np.divmod(found, max(1, len(heads)))
    values = compare(first, second, _orientations(first, second, heads, images))
    return NearPairs(first=first, second=second, similarity=values).where(values >= similarity)


def _search(search: tuple[np.ndarray, int, int]) -> np.ndarray:
    return find_candidates(*search)


def _orientations(first: np.ndarray, second: np.ndarray, heads: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the orientation of the first image of each pair in which it is closest to the second, int64 [pairs]."""
    nearest = np.empty(len(first), np.int64)
    for start in range(0, len(first), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        bits = [
            sum(
                np.bitwise_count(orient_hashes(hashes[first[chunk]], orientation) ^ hashes[second[chunk]]).astype(int)
                for hashes in (heads, images)
            )
            for orientation in range(ORIENTATIONS)
        ]
        nearest[chunk] = np.argmin(bits, axis=0)
    return nearest


def _cut(
    signatures: np.ndarray, first: np.ndarray, second: np.ndarray, turns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the signatures of candidate pairs and the orientations of the first, a chunk at a time."""
    for start in range(0, len(first), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        yield signatures[first[chunk]], signatures[second[chunk]], turns[chunk]


def compare_pairs(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the similarity of pairs of signatures; of pairs that fail the coarse look, its result.

    Args:
        pairs: uint8 [n, 16, 16], twice, and the orientations in which the first are compared, int64 [n].
    """
    first, second, turns = pairs
    turned = np.empty_like(first)
    for orientation in range(ORIENTATIONS):
        chosen = turns == orientation
        turned[chosen] = orient(first[chosen], orientation)
    values = similarities(turned, second, side=SIDE, steps=1)
    close = values >= _SCREEN
    values[close] = similarities(turned[close], second[close])
    return values
