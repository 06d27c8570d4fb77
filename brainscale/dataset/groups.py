"""Find the samples that must stay in one split: those of one patient or series, duplicates and near duplicates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import number_values, replace_column
from brainscale.dataset.near_duplicates import SIMILARITY, Map, NearPairs, find_near_duplicates
from brainscale.stats.components import find_components

SHARED = {"patient": "same patient", "scan": "same series", "sha256": "same file"}
"""Columns whose equal values put samples into one group, and how this is said."""


def assign_groups(manifest: pa.Table, similarity: float | None = SIMILARITY, run: Map = map) -> pa.Table:
    """Fill the column `group`; a row with an error gets no group.

    A group is named after the first 16 digits of its smallest sha256, so neither the patient key nor the order of the
    rows changes its name.

    Args:
        manifest: table with the columns patient, scan, sha256, phash, head_phash, signature and error_code.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.
        run: applies a function to many arguments, perhaps in parallel.
    """
    near = find_near_duplicates(manifest, similarity, run)
    components = connect_rows(_readable_rows(manifest), partial(number_values, manifest), near)
    smallest: dict[int, str] = {}
    for component, digest in zip(components.tolist(), manifest["sha256"].to_pylist(), strict=True):
        if component >= 0:
            smallest[component] = min(smallest.get(component, digest), digest)
    names = [smallest[component][:16] if component >= 0 else None for component in components.tolist()]
    return replace_column(manifest, "group", pa.array(names, pa.string()))


def connect_rows(readable: np.ndarray, numbers: Callable[[str], np.ndarray], near: NearPairs) -> np.ndarray:
    """Return the first row of each row's connected component, int64 [rows]; −1 for a row with an error.

    Edges join the first row of each patient, series and content to the others, and near duplicates.

    Args:
        readable: bool [rows], rows that belong to a group.
        numbers: column → a number for each row's value, int64 [rows]; −1 for null.
        near: near duplicates among the readable rows.
    """
    first, second = near.first, near.second
    components = np.arange(len(readable))
    for column in SHARED:
        codes = numbers(column)
        rows = np.flatnonzero(readable & (codes >= 0))
        _, start, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
        shared = rows[start[inverse]]
        differ = shared != rows
        first, second = np.concatenate([first, shared[differ]]), np.concatenate([second, rows[differ]])
        components = find_components(components[first], components[second], len(readable))[components]
        first, second = first[:0], second[:0]
    components[~readable] = -1
    return components


def _readable_rows(manifest: pa.Table) -> np.ndarray:
    readable = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["sha256"]))
    return np.asarray(readable.to_numpy(zero_copy_only=False))


@dataclass(frozen=True, kw_only=True)
class SplitViolation:
    """Two samples that belong together but are in different splits or folds.

    Attributes:
        column: `split` or `fold`.
        reason: why they belong together: `same patient`, `near duplicate` and so on.
        similarity: similarity of near duplicates; None for another reason.
        first_id: sample id of the first.
        first_split: split or fold of the first.
        second_id: sample id of the second.
        second_split: split or fold of the second.
    """

    column: str
    reason: str
    similarity: float | None
    first_id: str
    first_split: str
    second_id: str
    second_split: str

    def __str__(self) -> str:
        similarity = "" if self.similarity is None else f" ({self.similarity:.3f})"
        first, second = f"'{self.first_id}' in {self.first_split}", f"'{self.second_id}' in {self.second_split}"
        return f"{first} and {second}: {self.reason}{similarity}"


def find_split_violations(
    manifest: pa.Table, similarity: float | None = SIMILARITY, run: Map = map
) -> list[SplitViolation]:
    """Return the pairs of samples that belong together but are in different splits or folds.

    Patients, series, contents and near duplicates are compared again, because the column `group` may be wrong.

    Args:
        manifest: samples with splits or folds.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.
        run: applies a function to many arguments, perhaps in parallel.
    """
    near = find_near_duplicates(manifest, similarity, run)
    numbers = partial(number_values, manifest)
    components = connect_rows(_readable_rows(manifest), numbers, near)
    readable = manifest["error_code"].is_null().to_numpy(zero_copy_only=False)

    def texts(column: str, rows: Sequence[int]) -> list[Any]:
        values: list[Any] = manifest[column].take(pa.array(rows, pa.int64())).to_pylist()
        return values

    return list_violations(numbers, near, components, readable, texts)


def list_violations(
    numbers: Callable[[str], np.ndarray],
    near: NearPairs,
    components: np.ndarray,
    readable: np.ndarray,
    texts: Callable[[str, Sequence[int]], list[Any]],
) -> list[SplitViolation]:
    """Return the pairs of rows that belong together but are in different splits or folds.

    Args:
        numbers: column → a number for each row's value, int64 [rows]; −1 for null.
        near: near duplicates.
        components: connected component of each row, int64 [rows]; −1 for none.
        readable: bool [rows], rows without an error.
        texts: column and rows → the values of these rows.
    """
    violations = []
    for column in ("split", "fold"):
        splits = numbers(column)
        links = list(_cut_links(numbers, near, components, readable & (splits >= 0), splits))
        ends = [row for _, first, second, _ in links for row in (first, second)]
        ids, values = texts("sample_id", ends), texts(column, ends)
        violations += [
            SplitViolation(
                column=column,
                reason=reason,
                similarity=similarity,
                first_id=ids[2 * n],
                first_split=str(values[2 * n]),
                second_id=ids[2 * n + 1],
                second_split=str(values[2 * n + 1]),
            )
            for n, (reason, _, _, similarity) in enumerate(links)
        ]
    return violations


def _cut_links(
    numbers: Callable[[str], np.ndarray],
    near: NearPairs,
    components: np.ndarray,
    assigned: np.ndarray,
    splits: np.ndarray,
) -> Iterator[tuple[str, int, int, float | None]]:
    """Yield reason, two rows and similarity for each link between different splits, and for chains of links.

    Args:
        numbers: column → a number for each row's value, int64 [rows]; −1 for null.
        near: near duplicates.
        components: int64 [rows], connected components.
        assigned: bool [rows], rows in a split.
        splits: int64 [rows], number of each row's split.
    """
    linked: set[tuple[int, int]] = set()
    for column, reason in SHARED.items():
        for first, second in _cut_values(numbers(column), assigned, splits):
            linked.add((first, second))
            yield reason, first, second, None
    cut = assigned[near.first] & assigned[near.second] & (splits[near.first] != splits[near.second])
    pairs = near.where(cut)
    for first, second, value in zip(
        pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True
    ):
        if (first, second) not in linked:
            linked.add((first, second))
            yield "near duplicate", first, second, value
    explained = {int(components[first]) for first, _ in linked}
    for first, second in _cut_values(components, assigned, splits):
        if int(components[first]) not in explained:
            yield "linked through other samples", first, second, None
    for first, second in _cut_values(numbers("group"), assigned, splits):
        if components[first] != components[second]:
            yield "same group", first, second, None


def _cut_values(codes: np.ndarray, assigned: np.ndarray, splits: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first row of a value and each row of the same value in another split."""
    rows = np.flatnonzero(assigned & (codes >= 0))
    _, start, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
    first = rows[start[inverse]]
    cut = splits[rows] != splits[first]
    yield from zip(first[cut].tolist(), rows[cut].tolist(), strict=True)
