"""Find the samples that two manifests share, to tell whether an external dataset is really external."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import KEY_METADATA, count_values
from brainscale.dataset.near_duplicates import SIMILARITY, Map, compare_signatures

KINDS = {
    "exact": "the same file",
    "near": "a near duplicate",
    "series": "the same series",
    "patient": "the same patient",
}
"""Kinds of matches, the strongest first."""
COLUMNS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # of the external sample
        pa.field("label", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # exact, near, series or patient: the strongest
        pa.field("similarity", pa.float32()),  # of near duplicates, to the most similar training sample
        pa.field("other", pa.string(), nullable=False),  # the first training sample that matches in this way
        pa.field("other_label", pa.string()),
        pa.field("other_split", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class OverlapCount:
    """Number of external samples with one kind of match.

    Attributes:
        kind: kind of match: `exact`, `near`, `series`, `patient`, or `any`.
        samples: number of samples whose strongest match is of this kind.
        share: fraction of all readable external samples.
        labels: label → number of these samples.
    """

    kind: str
    samples: int
    share: float
    labels: dict[str, int]


def find_overlap(
    training: pa.Table, external: pa.Table, similarity: float | None = SIMILARITY, run: Map = map
) -> pa.Table:
    """Return one row for each external sample that the training manifest contains too, with the strongest match.

    Args:
        training: manifest of the training set.
        external: manifest of the external set.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.
        run: applies a function to many arguments, perhaps in parallel.

    Returns:
        A table of schema `COLUMNS`, sorted by sample_id. Patients and series match only if both manifests were made
        with the same patient key.
    """
    training, external = (table.filter(pc.is_null(table["error_code"])) for table in (training, external))
    near_rows, near_values = _nearest_rows(training, external, similarity, run)
    match = np.full(len(external), -1)
    kind = np.full(len(external), "", object)
    for name, rows in {
        "exact": _equal_rows(training, external, "sha256"),
        "near": near_rows,
        "series": _equal_rows(training, external, "scan"),
        "patient": _equal_rows(training, external, "patient"),
    }.items():
        new = (match < 0) & (rows >= 0)
        match[new], kind[new] = rows[new], name
    found = np.flatnonzero(match >= 0)
    others = training.select(["sample_id", "label", "split"]).take(pa.array(match[found]))
    columns = [
        *external.select(["sample_id", "label"]).take(pa.array(found)).columns,
        pa.array(kind[found], pa.string()),
        pa.array(near_values[found], pa.float32(), mask=kind[found] != "near"),
        *others.columns,
    ]
    table = pa.Table.from_arrays(
        [pa.chunked_array(c) if isinstance(c, pa.Array) else c for c in columns], COLUMNS.names
    )
    return table.cast(COLUMNS).sort_by("sample_id")


def count_overlap(matches: pa.Table, external: pa.Table) -> list[OverlapCount]:
    """Return how many samples of an external manifest have each kind of match, and any.

    Args:
        matches: table of schema `COLUMNS`.
        external: manifest of the external set.
    """
    total = external["error_code"].null_count
    rows = {kind: matches.filter(pc.equal(matches["kind"], kind)) for kind in KINDS} | {"any": matches}
    return [
        OverlapCount(
            kind=kind, samples=len(table), share=len(table) / max(total, 1), labels=count_values(table, "label")
        )
        for kind, table in rows.items()
    ]


def have_one_key(first: pa.Table, second: pa.Table) -> bool:
    """Return whether patients and series of two manifests can be equal: the same key, or one that is not recorded."""
    keys = {(table.schema.metadata or {}).get(KEY_METADATA) for table in (first, second)}
    return len(keys - {None}) < 2


def describe_missed_matches(manifest: pa.Table, name: str) -> Iterator[str]:
    """Yield a line on samples whose near duplicates, and one on samples whose patients, cannot be matched.

    Args:
        manifest: one of the two manifests.
        name: its name in the messages.
    """
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    for column, missing, missed in (
        ("signature", "have no signature", "near duplicates of these were not looked for"),
        ("patient", "have no known patient", "their patients may be shared unnoticed"),
    ):
        if count := readable[column].null_count:
            yield f"{count:,} of {len(readable):,} samples of {name} {missing}: {missed}."


def _equal_rows(training: pa.Table, external: pa.Table, column: str) -> np.ndarray:
    """Return for each external row the first training row with the same value, −1 without one, int64."""
    rows = pc.index_in(external[column], value_set=training[column].combine_chunks().drop_null())
    positions = np.flatnonzero(training[column].is_valid().to_numpy(zero_copy_only=False))
    found = rows.fill_null(-1).to_numpy().astype(np.int64)
    return np.where(found >= 0, positions[found], -1) if positions.size else np.full(len(external), -1)


def _nearest_rows(
    training: pa.Table, external: pa.Table, similarity: float | None, run: Map
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each external row the most similar training row (−1 without one), and the similarity."""
    columns = ["error_code", "phash", "head_phash", "signature"]
    both = pa.concat_tables([training.select(columns), external.select(columns)])
    numbers, pairs = compare_signatures(both, similarity, run)
    trained, start = np.unique(numbers[: len(training)], return_index=True)
    row_of_number = np.full(numbers.max(initial=0) + 1, -1)
    row_of_number[trained[trained >= 0]] = start[trained >= 0]
    best, values = row_of_number.copy(), np.where(row_of_number >= 0, 1, 0).astype(np.float32)
    if similarity is None:
        best, values = np.full_like(best, -1), np.zeros_like(values)
    one, other = np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first])
    value = np.tile(pairs.similarity, 2)
    for n in np.argsort(value, kind="stable").tolist():  # the best is written last
        if row_of_number[other[n]] >= 0 and value[n] > values[one[n]]:
            best[one[n]], values[one[n]] = row_of_number[other[n]], value[n]
    own = numbers[len(training) :]
    return np.where(own >= 0, best[own], -1), np.where(own >= 0, values[own], 0).astype(np.float32)
