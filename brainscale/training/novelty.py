"""Fit the novelty of a model after training, from the features of its training and validation samples."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.models.bundle import Bundle
from brainscale.models.novelty import NoveltyReference
from brainscale.models.novelty_fit import fit_novelty
from brainscale.scoring.rows import extract_features
from brainscale.seeds import derive

MAX_SAMPLES = 5000
"""Most samples of each split that are used: the components and 1,000 quantiles need no more."""
MIN_VALIDATION = 20
"""Fewest validation samples: with fewer, one of 20 usual samples or more would seem more unusual than all of them."""


@dataclass(frozen=True, kw_only=True)
class NoveltyChoice:
    """What novelty is computed from, and what it rests on.

    Attributes:
        reference: the numbers; None where there is none.
        source: method and numbers of samples, or why there is none.
    """

    reference: NoveltyReference | None
    source: str


def choose_novelty(bundle: Bundle, manifest: pa.Table, seed: int) -> NoveltyChoice:
    """Return the novelty of a model from its training and validation samples.

    Args:
        bundle: the model.
        manifest: manifest of the run.
        seed: seed of the run, by which samples are drawn where there are too many.
    """
    train, val = (_draw(manifest, split, seed) for split in ("train", "val"))
    if len(val) < MIN_VALIDATION:
        return NoveltyChoice(
            reference=None, source=f"none: it needs {MIN_VALIDATION} validation samples, and there are {len(val)}"
        )
    ids, features = extract_features(pa.concat_tables([train, val]), bundle)
    is_train = np.isin(ids, train["sample_id"].to_pylist())
    if not np.isfinite(features).all():
        return NoveltyChoice(reference=None, source="none: features of training samples are not finite")
    reference = fit_novelty(features[is_train], features[~is_train])
    if reference is None:
        return NoveltyChoice(reference=None, source="none: the network has the same features for every sample")
    source = (
        f"distance in the network's features from {is_train.sum():,} training samples, beside the distances of "
        f"{(~is_train).sum():,} validation samples"
    )
    return NoveltyChoice(reference=reference, source=source)


def _draw(manifest: pa.Table, split: str, seed: int) -> pa.Table:
    """Return rows of a split, at most `MAX_SAMPLES` of them."""
    rows = manifest.filter(pc.equal(manifest["split"], split))
    if len(rows) <= MAX_SAMPLES:
        return rows
    chosen = np.random.default_rng(derive(seed, "novelty", split)).choice(len(rows), MAX_SAMPLES, replace=False)
    return rows.take(pa.array(np.sort(chosen)))
