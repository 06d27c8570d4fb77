"""Candidate pairs: hashes that are close in some orientation."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.dataset.candidates import NEIGHBOURS, ORIENTATIONS, ROUNDS, find_candidates, orient, orient_hashes
from brainscale.reading.signature import hash_thumbnail


def hashes_of(images: np.ndarray) -> np.ndarray:
    return np.array([int(hash_thumbnail(image), 16) for image in images], np.uint64)


def found(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    codes = np.concatenate([find_candidates(hashes, distance, number) for number in range(ROUNDS)])
    return set(zip(*(part.tolist() for part in np.divmod(codes, len(hashes))), strict=True))


@given(st.integers(0, 2**32), st.integers(0, ORIENTATIONS - 1))
@settings(max_examples=60)
def test_the_hash_of_a_turned_image_is_the_turned_hash(seed: int, orientation: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (20, 16, 16), np.uint8)
    assert (hashes_of(orient(images, orientation)) == orient_hashes(hashes_of(images), orientation)).all()


def test_the_eight_orientations_are_all_flips_and_turns() -> None:
    image = np.arange(9).reshape(3, 3)
    ours = {orient(image, orientation).tobytes() for orientation in range(ORIENTATIONS)}
    assert ours == {turned.tobytes() for k in range(4) for turned in (np.rot90(image, k), np.rot90(image, k)[:, ::-1])}


@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(0, 8))
@settings(max_examples=60)
def test_candidates_are_close_pairs_and_do_not_depend_on_the_order(seed: int, count: int, distance: int) -> None:
    draw = np.random.default_rng(seed)
    hashes = draw.integers(0, 2**63, count, np.uint64)
    pairs = found(hashes, distance)
    oriented = np.stack([orient_hashes(hashes, orientation) for orientation in range(ORIENTATIONS)])
    for first, second in pairs:
        assert first < second
        assert np.bitwise_count(oriented[:, first] ^ hashes[second]).min() <= distance
    order = draw.permutation(count)
    again = {tuple(sorted((int(order[i]), int(order[j])))) for i, j in found(hashes[order], distance)}
    assert again == pairs


def test_close_hashes_are_found_among_many_also_turned() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**63, 20_000, np.uint64)
    for distance in (0, 4, 8):
        copies = hashes[:500].copy()
        for _ in range(distance):
            copies ^= np.uint64(1) << draw.integers(0, 63, 500, np.uint64)
        turned = np.stack([orient_hashes(copies, orientation) for orientation in range(ORIENTATIONS)])
        copies = turned[draw.integers(0, ORIENTATIONS, 500), np.arange(500)]
        pairs = found(np.concatenate([hashes, copies]), distance)
        share = sum((i, 20_000 + i) in pairs for i in range(500)) / 500
        assert share > {0: 0.999, 4: 0.999, 8: 0.98}[distance]
        assert len(pairs) < 600


def test_many_equal_hashes_are_chained_and_not_compared_all_with_all() -> None:
    pairs = found(np.full(3000, 12345, np.uint64), 4)
    assert len(pairs) <= 3000 * ROUNDS * NEIGHBOURS
    reached = {0}
    for first, second in sorted(pairs):
        if first in reached:
            reached.add(second)
    assert len(reached) == 3000
