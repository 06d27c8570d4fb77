"""Near duplicates: copies are found, and different scans are not taken for copies."""

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from PIL import Image

from brainscale.dataset.groups import assign_groups
from brainscale.dataset.near_duplicates import SIMILARITY, find_near_duplicates
from brainscale.dataset.phantoms import draw_phantom
from brainscale.dataset.registration import similarities
from brainscale.reading.signature import make_signature
from brainscale.schema import MANIFEST
from tests.support.copies import COPIES, recognisable
from tests.support.shared import shared

SCANS = 40
MARGINS = [
    {"Y107", "Y163", "Y33", "Y49"},
    {"Y155", "Y55", "Y74"},
    {"Y160", "Y50"},
    {"Y161", "Y61", "Y71"},
    {"Y36", "Y65"},
    {"Y112", "Y146"},
    {"Y195", "Y26"},
]
"""Files of the 253 that show one scan with different margins."""


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """A manifest of images, each row with its own sample_id and sha256 where it names none."""
    empty = dict.fromkeys(MANIFEST.names)
    full = [
        empty | {"sample_id": f"{n:05}.png", "uri": "", "sha256": f"{n:064x}"[::-1]} | row for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(full, schema=MANIFEST)


@cache
def phantoms(count: int = SCANS) -> list[np.ndarray]:
    return [draw_phantom(1, index, tumour=index % 2 == 0, size=128) for index in range(count)]


def pairs_of(manifest: pa.Table) -> set[tuple[int, int]]:
    near = find_near_duplicates(manifest)
    return set(zip(near.first.tolist(), near.second.tolist(), strict=True))


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_phantoms_are_joined_and_nothing_else(name: str) -> None:
    draw = np.random.default_rng(0)
    images = [*phantoms(), *(COPIES[name](image, draw) for image in phantoms())]
    pairs = pairs_of(table([recognisable(image) for image in images]))
    copies = {(index, index + SCANS) for index in range(SCANS)}
    assert pairs <= copies
    assert len(pairs) >= SCANS - 2, copies - pairs


def test_nothing_is_looked_for_without_a_similarity_or_without_signatures() -> None:
    rows = [recognisable(image) for image in [phantoms()[0], phantoms()[0][8:-8, 8:-8]]]
    assert pairs_of(table(rows)) == {(0, 1)}
    assert len(find_near_duplicates(table(rows), None)) == 0
    assert not pairs_of(table([row | {"signature": None} for row in rows]))
    assert not pairs_of(table([rows[0], rows[1] | {"error_code": "corrupt"}]))
    assert not pairs_of(table([]))
    assert not pairs_of(table(rows[:1]))


def test_equal_signatures_are_pairs_with_the_first_of_them() -> None:
    first, second = (recognisable(image) for image in phantoms()[:2])
    near = recognisable(phantoms()[0][6:-6, 6:-6])
    assert pairs_of(table([first, second, first, near, first, near])) == {(0, 2), (0, 4), (0, 3), (3, 5)}


def test_the_result_is_the_same_in_any_order_and_on_any_number_of_tasks() -> None:
    draw = np.random.default_rng(3)
    images = [*phantoms()[:20], *(COPIES["margin cropped"](image, draw) for image in phantoms()[:20])]
    manifest = table([recognisable(image) for image in images])
    pairs = pairs_of(manifest)
    order = draw.permutation(len(images))
    again = {tuple(sorted((int(order[i]), int(order[j])))) for i, j in pairs_of(manifest.take(pa.array(order)))}
    assert again == pairs

    def backwards(function: Any, arguments: Any) -> Any:
        results = [function(argument) for argument in list(arguments)[::-1]]
        return iter(results[::-1])

    near = find_near_duplicates(manifest, SIMILARITY, backwards)
    assert set(zip(near.first.tolist(), near.second.tolist(), strict=True)) == pairs


def test_a_signature_is_like_itself_turned_back_and_unlike_noise() -> None:
    signatures = np.stack([make_signature(image) for image in phantoms()[:10]])
    assert (similarities(signatures, signatures) > 0.999).all()
    assert (similarities(signatures, np.roll(signatures, 1, axis=0)) < 0.9).all()
    noise = np.random.default_rng(0).integers(0, 256, signatures.shape, np.uint8)
    assert (similarities(signatures, noise) < 0.6).all()
    flat = np.full_like(signatures, 9)
    assert np.isfinite(similarities(signatures, flat)).all()
    assert similarities(signatures[:0], flat[:0]).shape == (0,)


def read_grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


def test_the_253_images() -> None:
    """Thresholds were chosen on transformed copies and phantoms: these images only test them."""
    folder = shared("data/brain_mri_253")
    files = sorted(folder.glob("*/*"))
    manifest = table([recognisable(read_grey(file)) | {"label": file.parent.name} for file in files])
    pairs = pairs_of(manifest)
    assert all(files[i].parent == files[j].parent for i, j in pairs)
    groups = assign_groups(manifest)["group"].to_pylist()
    assert 197 <= len(set(groups)) <= 199
    group_of = {file.stem: group for file, group in zip(files, groups, strict=True)}
    for scan in MARGINS:
        assert len({group_of[name] for name in scan}) == 1, scan


def test_slices_of_other_patients_are_never_joined_and_neighbours_seldom() -> None:
    folder = shared("data/lgg_flair")
    rows = pa.csv.read_csv(folder / "labels.csv").to_pylist()
    manifest = table([recognisable(read_grey(folder / row["sample_id"])) for row in rows[:500]])
    slices = [(row["patient"], int(row["sample_id"].rsplit("_", 1)[1].removesuffix(".png"))) for row in rows[:500]]
    gaps = defaultdict(int)
    for i, j in pairs_of(manifest):
        assert slices[i][0] == slices[j][0]
        gaps[abs(slices[i][1] - slices[j][1])] += 1
    assert set(gaps) <= {1}
    neighbours = len({(p, n) for p, n in slices} & {(p, n + 1) for p, n in slices})
    assert gaps[1] < 0.05 * neighbours
