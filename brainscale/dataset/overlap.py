"""Find the samples that two manifests share, to tell whether an external dataset is really external."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import KEY_METADATA, NEARNESS, count_values
from brainscale.dataset.near_duplicates import SIMILARITY, Map, NearPairs, compare_signatures

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
    training, external = _readable_rows(training), _readable_rows(external)
    columns = ["error_code", *NEARNESS]
    both = pa.concat_tables([training.select(columns), external.select(columns)])
    nearest = find_nearest_rows(*compare_signatures(both, similarity, run), len(training), similarity)

    def texts(column: str, rows: np.ndarray) -> list[Any]:
        is_external = rows >= len(training)
        table, start = (external, len(training)) if is_external.any() else (training, 0)
        values: list[Any] = table[column].take(pa.array(rows - start)).to_pylist()
        return values

    return list_matches(partial(_equal_rows, training, external), nearest, len(training), texts)


def _readable_rows(manifest: pa.Table) -> pa.Table:
    """Return the columns that matter of the rows without an error; of a large manifest, no copy without need."""
    manifest = manifest.select(["error_code", *NEARNESS, "sample_id", "sha256", "scan", "patient", "label", "split"])
    is_readable = pc.is_null(manifest["error_code"])
    return manifest if pc.all(is_readable).as_py() else manifest.filter(is_readable)


def list_matches(
    equal_rows: Callable[[str], np.ndarray],
    nearest: tuple[np.ndarray, np.ndarray],
    training_rows: int,
    texts: Callable[[str, np.ndarray], list[Any]],
) -> pa.Table:
    """Return one row for each external sample that matches a training sample, with the strongest match.

    Args:
        equal_rows: column → for each external row the first training row with the same value, −1 without one.
        nearest: for each external row the most similar training row, −1 without one, and the similarity.
        training_rows: number of rows of the training manifest; those of the external one follow.
        texts: column and rows, all of one manifest → the values of these rows.
    """
    near_rows, near_values = nearest
    match = np.full(len(near_rows), -1)
    kind = np.full(len(near_rows), "", object)
    for name, column in {"exact": "sha256", "near": None, "series": "scan", "patient": "patient"}.items():
        rows = near_rows if column is None else equal_rows(column)
        new = (match < 0) & (rows >= 0)
        match[new], kind[new] = rows[new], name
    found = np.flatnonzero(match >= 0)
    own, other = found + training_rows, match[found]
    values = [
        *(pa.array(texts(column, own), pa.string()) for column in ("sample_id", "label")),
        pa.array(kind[found], pa.string()),
        pa.array(near_values[found], pa.float32(), mask=kind[found] != "near"),
        *(pa.array(texts(column, other), pa.string()) for column in ("sample_id", "label", "split")),
    ]
    return pa.Table.from_arrays(values, schema=COLUMNS).sort_by("sample_id")


def count_overlap(matches: pa.Table, total: int) -> list[OverlapCount]:
    """Return how many samples of an external manifest have each kind of match, and any.

    Args:
        matches: table of schema `COLUMNS`.
        total: number of readable samples of the external manifest.
    """
    rows = {kind: matches.filter(pc.equal(matches["kind"], kind)) for kind in KINDS} | {"any": matches}
    return [
        OverlapCount(
            kind=kind, samples=len(table), share=len(table) / max(total, 1), labels=count_values(table, "label")
        )
        for kind, table in rows.items()
    ]


@dataclass(frozen=True, kw_only=True)
class ManifestFacts:
    """What `overlap` says of a manifest.

    Attributes:
        samples: number of rows.
        readable: number of rows without an error.
        without_signature: number of those without a signature.
        without_patient: number of those without a known patient.
        schema: schema with the metadata.
    """

    samples: int
    readable: int
    without_signature: int
    without_patient: int
    schema: pa.Schema

    @classmethod
    def of(cls, manifest: pa.Table) -> "ManifestFacts":
        """Count the rows of a manifest."""
        readable = manifest.filter(pc.is_null(manifest["error_code"]))
        return cls(
            samples=len(manifest),
            readable=len(readable),
            without_signature=readable["signature"].null_count,
            without_patient=readable["patient"].null_count,
            schema=manifest.schema,
        )


def have_one_key(first: pa.Schema, second: pa.Schema) -> bool:
    """Return whether patients and series of two manifests can be equal: the same key, or one that is not recorded."""
    keys = {(schema.metadata or {}).get(KEY_METADATA) for schema in (first, second)}
    return len(keys - {None}) < 2


def describe_missed_matches(facts: ManifestFacts, name: str) -> Iterator[str]:
    """Yield a line on samples whose near duplicates, and one on samples whose patients, cannot be matched.

    Args:
        facts: of one of the two manifests.
        name: its name in the messages.
    """
    for count, missing, missed in (
        (facts.without_signature, "have no signature", "near duplicates of these were not looked for"),
        (facts.without_patient, "have no known patient", "their patients may be shared unnoticed"),
    ):
        if count:
            yield f"{count:,} of {facts.readable:,} samples of {name} {missing}: {missed}."


def _equal_rows(training: pa.Table, external: pa.Table, column: str) -> np.ndarray:
    """Return for each external row the first training row with the same value, −1 without one, int64."""
    rows = pc.index_in(external[column], value_set=training[column].combine_chunks().drop_null())
    positions = np.flatnonzero(training[column].is_valid().to_numpy(zero_copy_only=False))
    found = rows.fill_null(-1).to_numpy().astype(np.int64)
    return np.where(found >= 0, positions[found], -1) if positions.size else np.full(len(external), -1)


def find_nearest_rows(
    numbers: np.ndarray, pairs: NearPairs, training_rows: int, similarity: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each external row the most similar training row (−1 without one), and the similarity.

    Args:
        numbers: number of each row's signature, int64 [rows], training first; −1 without one.
        pairs: pairs of similar signatures.
        training_rows: number of training rows.
        similarity: minimum similarity; None finds nothing.
    """
    trained, start = np.unique(numbers[:training_rows], return_index=True)
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
    own = numbers[training_rows:]
    return np.where(own >= 0, best[own], -1), np.where(own >= 0, values[own], 0).astype(np.float32)
