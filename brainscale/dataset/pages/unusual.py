"""Rank images by how little their heads resemble those of other groups: other anatomy or planes, odd crops, frames."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import number_values
from brainscale.reading.signature import SIDE

NEAREST = 5
"""Number of the most similar images of other groups to which an image is compared."""
MIN_IMAGES = 30
"""Number of images of other groups without which nothing is unusual."""
REFERENCES = 4096
"""Maximum number of images that all others are compared with, so that the time grows in proportion to the set."""
_CHUNK = 4096  # images at a time


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """Images by their likeness to others.

    Attributes:
        rows: int64 [images], row of the least similar image of each group, the least similar first.
        likeness: float32 [images], mean correlation with the most similar images of other groups, at most 1.
    """

    rows: np.ndarray
    likeness: np.ndarray


def rank_unusual(manifest: pa.Table) -> Unusual:
    """Return the least usual image of each group.

    Signatures are averaged with their mirror images first, so that a lesion on one side counts less than the shape
    and the anatomy. An image without a signature, or of a set too small to compare, is not ranked.

    Args:
        manifest: table with the columns error_code, empty, sha256, frame, group and signature.
    """
    usable = pc.and_(pc.is_null(manifest["error_code"]), pc.is_valid(manifest["signature"]))
    usable = pc.and_(usable, pc.invert(manifest["empty"].fill_null(False)))
    rows = np.flatnonzero(usable.to_numpy(zero_copy_only=False))
    chosen = manifest.select(["sha256", "frame", "group", "signature"]).take(pa.array(rows, pa.int64()))
    groups = number_values(chosen, "group")
    if len(rows) - np.bincount(groups + 1, minlength=1).max() < MIN_IMAGES:
        return Unusual(rows=rows[:0], likeness=np.empty(0, np.float32))
    shapes = _symmetric_shapes(chosen["signature"])
    by_content = np.asarray(pc.sort_indices(chosen, [("sha256", "ascending"), ("frame", "ascending")]), np.int64)
    step = -(-len(rows) // REFERENCES)
    likeness = _compare(
        shapes, groups, by_content[::step]
    )  # every step-th by hash, the same ones in any order of files
    order = np.argsort(likeness, kind="stable")
    _, first = np.unique(groups[order], return_index=True)
    order = order[np.sort(first)]
    return Unusual(rows=rows[order], likeness=likeness[order])


def _symmetric_shapes(signatures: pa.ChunkedArray) -> np.ndarray:
    """Return signatures averaged with their mirror images, with mean 0 and norm 1, float32 [n, 256]."""
    images = np.frombuffer(b"".join(signatures.to_pylist()), np.uint8).reshape(-1, SIDE, SIDE).astype(np.float32)
    means = ((images + images[:, :, ::-1]) / 2).reshape(len(images), -1)
    centred = means - means.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6))


def _compare(shapes: np.ndarray, groups: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the mean correlation of each shape with the most similar references of other groups, float32 [n]."""
    values = [np.empty(0, np.float32)]
    for start in range(0, len(shapes), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        correlations = shapes[chunk] @ shapes[references].T
        correlations[groups[chunk, None] == groups[None, references]] = -1
        values.append(np.partition(correlations, -NEAREST, axis=1)[:, -NEAREST:].mean(axis=1))
    return np.concatenate(values)
