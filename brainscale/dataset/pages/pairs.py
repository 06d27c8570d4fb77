"""The page of near duplicates: pairs of images that were joined, the least similar first."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.candidates import ORIENTATIONS, orient
from brainscale.dataset.columns import number_values
from brainscale.dataset.near_duplicates import NearPairs
from brainscale.dataset.pages.document import write_document
from brainscale.dataset.pages.pictures import Picture, read_pictures
from brainscale.dataset.registration import similarities
from brainscale.reading.signature import SIDE

MAX_PAIRS = 500
"""Maximum number of pairs that a page shows."""
TURNS = (
    "as stored",
    "flipped left to right",
    "flipped upside down",
    "turned by 180°",
    "flipped along the diagonal",
    "turned by 90° clockwise",
    "turned by 90° anticlockwise",
    "flipped along the other diagonal",
)
"""What `candidates.orient` does to the first image of a pair, by the number of the orientation."""


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """A pair of near duplicates as a page shows it.

    Attributes:
        pictures: the two samples.
        similarity: similarity of their aligned signatures.
        turn: how the first has to be flipped or turned to match the second.
        patients: `same patient` or `two patients`; empty where one of them is unknown.
        two_labels: whether they have two different labels.
        identical: whether their files are identical, byte for byte.
    """

    pictures: tuple[Picture, Picture]
    similarity: float
    turn: str
    patients: str
    two_labels: bool
    identical: bool


@dataclass(frozen=True, kw_only=True)
class SortedPairs:
    """Pairs of near duplicates by what a person has to look at.

    Attributes:
        two_labels: pairs with two different labels, the least similar first, those of one patient last.
        others: the other pairs, in the same order.
        slices: number of pairs of slices of one series or file, which are in neither.
        copies: number of samples that are identical to another one, the first of each content not counted.
    """

    two_labels: NearPairs
    others: NearPairs
    slices: int
    copies: int


def sort_pairs(manifest: pa.Table, near: NearPairs) -> SortedPairs:
    """Divide pairs into those to look at and those only to count.

    Args:
        manifest: the samples.
        near: its near duplicates.
    """
    contents, series = number_values(manifest, "sha256"), number_values(manifest, "scan")
    same_content = contents[near.first] == contents[near.second]
    identical = are_identical(manifest, near)
    slices = ~identical & (same_content | (series[near.first] >= 0) & (series[near.first] == series[near.second]))
    labels = number_values(manifest, "label")
    differ = have_two_labels(labels, near)
    shown = ~identical & ~slices
    patients = number_values(manifest, "patient")
    one_patient = (patients[near.first] >= 0) & (patients[near.first] == patients[near.second])
    order = np.lexsort((near.similarity, one_patient))  # these belong together, near duplicates or not
    ordered, differ, shown = near.where(order), differ[order], shown[order]
    return SortedPairs(
        two_labels=ordered.where(shown & differ),
        others=ordered.where(shown & ~differ),
        slices=int(slices.sum()),
        copies=_count_copies(manifest),
    )


def _count_copies(manifest: pa.Table) -> int:
    readable = manifest.filter(manifest["error_code"].is_null())
    return len(readable) - len(readable.group_by(["sha256", "frame"]).aggregate([]))


def have_two_labels(labels: np.ndarray, pairs: NearPairs) -> np.ndarray:
    """Return whether the samples of each pair have two different labels, bool [pairs]."""
    first, second = labels[pairs.first], labels[pairs.second]
    return np.asarray((first >= 0) & (second >= 0) & (first != second))


def are_identical(manifest: pa.Table, pairs: NearPairs) -> np.ndarray:
    """Return whether the samples of each pair have the same bytes, and are the same frame of them, bool [pairs]."""
    contents, frames = number_values(manifest, "sha256"), manifest["frame"].fill_null(-1).to_numpy()
    same_frame = frames[pairs.first] == frames[pairs.second]
    return np.asarray((contents[pairs.first] == contents[pairs.second]) & same_frame)


def write_pairs_page(manifest: pa.Table, near: NearPairs, location: str, config: Config, origin: str) -> None:
    """Write the page of near duplicates.

    Args:
        manifest: the samples, with their paths.
        near: its near duplicates.
        location: path or address of the page.
        config: window and orientation of slices, limits, and the minimum similarity.
        origin: says which command makes it.
    """
    pairs = sort_pairs(manifest, near)
    two_labels = pairs.two_labels.where(np.arange(len(pairs.two_labels)) < MAX_PAIRS)
    others = pairs.others.where(np.arange(len(pairs.others)) < MAX_PAIRS - len(two_labels))
    rows = np.concatenate([two_labels.first, two_labels.second, others.first, others.second]).tolist()
    pictures = read_pictures(manifest, rows, config)
    write_document(
        location,
        "pairs.html.j2",
        origin,
        two_labels=show_pairs(manifest, two_labels, pictures),
        others=show_pairs(manifest, others, pictures),
        pairs=pairs,
        samples=manifest["error_code"].null_count,
        similarity=config.split.similarity,
        maximum=MAX_PAIRS,
    )


def show_pairs(manifest: pa.Table, pairs: NearPairs, pictures: dict[int, Picture]) -> list[ShownPair]:
    """Return pairs as a page shows them.

    Args:
        manifest: the samples.
        pairs: the pairs to show.
        pictures: row → picture.
    """
    turns = _find_turns(manifest, pairs)
    labels, patients = number_values(manifest, "label"), number_values(manifest, "patient")
    known = (patients[pairs.first] >= 0) & (patients[pairs.second] >= 0)
    same = patients[pairs.first] == patients[pairs.second]
    patient_texts = np.where(known, np.where(same, "same patient", "two patients"), "")
    return [
        ShownPair(
            pictures=(pictures[first], pictures[second]),
            similarity=similarity,
            turn=TURNS[turn],
            patients=text,
            two_labels=differ,
            identical=identical,
        )
        for first, second, similarity, turn, text, differ, identical in zip(
            pairs.first.tolist(),
            pairs.second.tolist(),
            pairs.similarity.tolist(),
            turns.tolist(),
            patient_texts.tolist(),
            have_two_labels(labels, pairs).tolist(),
            are_identical(manifest, pairs).tolist(),
            strict=True,
        )
    ]


def _find_turns(manifest: pa.Table, pairs: NearPairs) -> np.ndarray:
    """Return the orientation of the first image of each pair in which it is most similar to the second, int64 [pairs].

    A pair without signatures, which only equal bytes join, is as stored.
    """
    turns = np.zeros(len(pairs), np.int64)
    signatures = manifest["signature"]
    known = signatures.is_valid().to_numpy(zero_copy_only=False)
    usable = np.flatnonzero(known[pairs.first] & known[pairs.second])
    if not len(usable):
        return turns
    first, second = (
        np.frombuffer(b"".join(signatures.take(pa.array(rows[usable])).to_pylist()), np.uint8).reshape(-1, SIDE, SIDE)
        for rows in (pairs.first, pairs.second)
    )
    values = np.stack([similarities(orient(first, turn), second) for turn in range(ORIENTATIONS)])
    turns[usable] = values.argmax(axis=0)
    return turns
