"""The page of doubtful labels and images: what a person should look at, section by section."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.columns import number_values
from brainscale.dataset.near_duplicates import NearPairs
from brainscale.dataset.pages.document import write_document
from brainscale.dataset.pages.pairs import are_identical, have_two_labels, show_pairs
from brainscale.dataset.pages.pictures import Picture, read_pictures
from brainscale.dataset.pages.predictions import find_wrong
from brainscale.dataset.pages.unusual import rank_unusual
from brainscale.formatting import format_number

SHOWN = 24
"""Maximum number of pictures or pairs of a section."""
SHOWN_GROUPS, SHOWN_OF_GROUP = 8, 6
"""Maximum number of groups, and of pictures of each."""
SHARE_UNUSUAL = 5
"""At most one group of so many is shown as unusual."""
MAX_ASPECT = 1.5
"""Longer side by shorter side, above which an aspect is odd."""
MIN_SIDE = 64
"""Pixels of the shorter side, below which an image is tiny."""
LARGE_GROUP, TIMES_MEDIAN = 10, 5
"""A group is large from so many samples on, if it also has so many times the samples of the median group."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A picture and what is to be said of it."""

    picture: Picture
    text: str


@dataclass(frozen=True, kw_only=True)
class LargeGroup:
    """A group that is much larger than others.

    Attributes:
        name: its name in the manifest.
        size: number of samples.
        facts: labels, patients, series and contents, in words.
        pictures: some of its samples, evenly spaced.
    """

    name: str
    size: int
    facts: str
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Rows of a manifest to look at; each in the order in which a page shows them.

    Attributes:
        two_labels: pairs of duplicates and near duplicates with two labels.
        unusual: row and likeness of the images that are least like those of other groups.
        compared: number of groups that were compared for it.
        empty: rows of images without contrast, and of slices that show next to nothing.
        odd: rows of images of an odd aspect or a tiny size.
        groups: rows of each group that is much larger than others.
        wrong: row and text of each sample that is classified wrongly; None without predictions.
        predicted: number of labelled contents with predictions.
    """

    two_labels: NearPairs
    unusual: list[tuple[int, float]]
    compared: int
    empty: list[int]
    odd: list[int]
    groups: list[list[int]]
    wrong: list[tuple[int, str]] | None
    predicted: int


def audit(manifest: pa.Table, near: NearPairs, classes: Sequence[str], predictions: pa.Table | None) -> Findings:
    """Find what a person should look at.

    Args:
        manifest: the samples with labels and groups.
        near: its near duplicates.
        classes: classes of the labels, the one without a tumour first.
        predictions: predictions of these samples, if there are any.
    """
    unusual = rank_unusual(manifest)
    limit = min(SHOWN, len(unusual.rows) // SHARE_UNUSUAL)
    wrong, predicted = ([], 0) if predictions is None else find_wrong(manifest, predictions, classes)
    return Findings(
        two_labels=_find_two_labels(manifest, near),
        unusual=list(zip(unusual.rows[:limit].tolist(), unusual.likeness[:limit].tolist(), strict=True)),
        compared=len(unusual.rows),
        empty=_find_empty(manifest),
        odd=_find_odd_sizes(manifest),
        groups=_find_large_groups(manifest),
        wrong=None
        if predictions is None
        else [
            (
                case.row,
                f"predicted {case.prediction} with probability {case.probability:.3f}"
                + (f", wrong {case.wrong} of {case.predictions} times" if case.predictions > 1 else ""),
            )
            for case in wrong
        ],
        predicted=predicted,
    )


def write_audit_page(
    manifest: pa.Table,
    near: NearPairs,
    location: str,
    config: Config,
    origin: str,
    predictions: pa.Table | None = None,
) -> None:
    """Write the page of doubtful labels and images.

    Args:
        manifest: the samples, with their paths.
        near: its near duplicates.
        location: path or address of the page.
        config: classes, window and orientation of slices, and limits.
        origin: says which command makes it.
        predictions: predictions of these samples, if there are any.
    """
    found = audit(manifest, near, list(config.data.classes), predictions)
    two_labels = found.two_labels.where(np.arange(len(found.two_labels)) < SHOWN)
    members = [_spread(rows) for rows in found.groups[:SHOWN_GROUPS]]
    wrong = (found.wrong or [])[:SHOWN]
    rows = [
        *two_labels.first.tolist(),
        *two_labels.second.tolist(),
        *(row for row, _ in (*found.unusual, *wrong)),
        *found.empty[:SHOWN],
        *found.odd[:SHOWN],
        *(row for group in members for row in group),
    ]
    pictures = read_pictures(manifest, rows, config)
    write_document(
        location,
        "audit.html.j2",
        origin,
        samples=manifest["error_code"].null_count,
        found=found,
        two_labels=show_pairs(manifest, two_labels, pictures),
        unusual=[
            Case(picture=pictures[row], text=f"likeness {format_number(likeness)}") for row, likeness in found.unusual
        ],
        empty=[Case(picture=pictures[row], text=_describe_empty(manifest, row)) for row in found.empty[:SHOWN]],
        odd=[Case(picture=pictures[row], text=_describe_aspect(pictures[row])) for row in found.odd[:SHOWN]],
        groups=[
            _describe_group(manifest, rows, [pictures[row] for row in shown])
            for rows, shown in zip(found.groups[:SHOWN_GROUPS], members, strict=True)
        ],
        wrong=[Case(picture=pictures[row], text=text) for row, text in wrong],
        max_aspect=MAX_ASPECT,
        min_side=MIN_SIDE,
        large_group=LARGE_GROUP,
        times_median=TIMES_MEDIAN,
    )


def _find_two_labels(manifest: pa.Table, near: NearPairs) -> NearPairs:
    """Return pairs of duplicates and near duplicates with two labels, byte-identical ones first, then by similarity.

    Pairs of equal bytes are added for images without a signature, which are no near duplicates of any other.
    """
    labels, contents = number_values(manifest, "label"), number_values(manifest, "sha256")
    frames = manifest["frame"].fill_null(-1).to_numpy()
    readable = np.flatnonzero(manifest["error_code"].is_null().to_numpy(zero_copy_only=False) & (contents >= 0))
    keys = np.stack([contents[readable], frames[readable]], axis=1)
    _, start, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first = readable[start[inverse.ravel()]]
    linked = set(zip(near.first.tolist(), near.second.tolist(), strict=True))
    added = [
        pair
        for pair in zip(first.tolist(), readable.tolist(), strict=True)
        if pair[0] != pair[1] and pair not in linked
    ]
    extra = np.array(added, np.int64).reshape(-1, 2)
    pairs = NearPairs(
        first=np.concatenate([near.first, extra[:, 0]]),
        second=np.concatenate([near.second, extra[:, 1]]),
        similarity=np.concatenate([near.similarity, np.ones(len(extra), np.float32)]),
    )
    pairs = pairs.where(have_two_labels(labels, pairs))
    order = np.lexsort((pairs.second, pairs.first, -pairs.similarity, ~are_identical(manifest, pairs)))
    return pairs.where(order)


def _find_empty(manifest: pa.Table) -> list[int]:
    """Return the rows of images without contrast, then of slices that show next to nothing."""
    readable = manifest["error_code"].is_null().to_numpy(zero_copy_only=False)
    marked = manifest["empty"].fill_null(False).to_numpy(zero_copy_only=False)
    flat = readable & ~marked & manifest["phash"].is_null().to_numpy(zero_copy_only=False)
    return [*np.flatnonzero(flat).tolist(), *np.flatnonzero(readable & marked).tolist()]


def _find_odd_sizes(manifest: pa.Table) -> list[int]:
    """Return the rows of images that are tiny or far from square, the most extreme aspect first."""
    readable = manifest["error_code"].is_null().to_numpy(zero_copy_only=False)
    width, height = (manifest[name].fill_null(1).to_numpy().astype(np.float64) for name in ("width", "height"))
    shorter = np.maximum(np.minimum(width, height), 1)
    aspect = np.maximum(width, height) / shorter
    rows = np.flatnonzero(readable & ((aspect > MAX_ASPECT) | (shorter < MIN_SIDE)))
    return [int(row) for row in rows[np.lexsort((rows, shorter[rows], -aspect[rows]))]]


def _find_large_groups(manifest: pa.Table) -> list[list[int]]:
    """Return the rows of each group that is much larger than others, the largest first."""
    groups = number_values(manifest, "group")
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    large = np.flatnonzero(sizes >= max(LARGE_GROUP, TIMES_MEDIAN * float(np.median(sizes))))
    ordered = large[np.argsort(-sizes[large], kind="stable")]
    return [np.flatnonzero(groups == group).tolist() for group in ordered]


def _spread(rows: Sequence[int]) -> list[int]:
    """Return some rows of a group, evenly spaced."""
    count = min(len(rows), SHOWN_OF_GROUP)
    return [rows[i * len(rows) // count] for i in range(count)]


def _describe_group(manifest: pa.Table, rows: Sequence[int], pictures: list[Picture]) -> LargeGroup:
    table = manifest.take(pa.array(rows))
    labels = Counter("no label" if label is None else label for label in table["label"].to_pylist())
    counts = {name: len(set(table[name].drop_null().to_pylist())) for name in ("patient", "scan", "sha256")}
    facts = [", ".join(f"{label} {count:,}" for label, count in sorted(labels.items()))]
    facts += [
        f"{counts['patient']:,} known patient(s), {counts['scan']:,} series, {counts['sha256']:,} different file(s)"
    ]
    return LargeGroup(name=table["group"][0].as_py(), size=len(rows), facts="; ".join(facts), pictures=pictures)


def _describe_empty(manifest: pa.Table, row: int) -> str:
    return "slice marked empty" if manifest["empty"][row].as_py() else "no contrast"


def _describe_aspect(picture: Picture) -> str:
    shorter, longer = sorted((picture.width, picture.height))
    return f"aspect {longer / max(shorter, 1):.2f} : 1" + (", tiny" if shorter < MIN_SIDE else "")
