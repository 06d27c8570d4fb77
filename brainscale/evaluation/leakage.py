"""Samples that a model has seen: data leakage, and test samples whose evaluations are counted."""

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import read_manifest
from brainscale.dataset.on_ray import open_map
from brainscale.dataset.overlap import find_overlap
from brainscale.training.run_folder import RunFolder

SEEN_SPLITS = ("train", "val")
"""Splits that a model has seen: one trained it, the other selected it."""


def find_leaked(rows: pa.Table, run: RunFolder, training_manifest: str = "auto") -> pa.Table | None:
    """Return the samples that trained or selected a model, exactly or nearly, as `find_overlap` gives them.

    Args:
        rows: manifest rows of the samples.
        run: folder of the model's run.
        training_manifest: manifest that the model was trained on; auto: the run's.

    Returns:
        None where the training manifest is not known.
    """
    if training_manifest != "auto":
        training = read_manifest(training_manifest)
    elif run.manifest_file.is_file():
        training = run.manifest()
    else:
        return None
    seen = training.filter(pc.is_in(training["split"], pa.array(SEEN_SPLITS)))
    seen = seen if len(seen) else training
    with open_map(len(seen) + len(rows)) as run_map:
        return find_overlap(seen, rows, run=run_map)


def unseen_contents(rows: pa.Table) -> list[str]:
    """Return the sha256 of the rows that training did not see: the test split's, else all but training's."""
    test = rows.filter(pc.equal(rows["split"], "test"))
    unseen = test if len(test) else rows.filter(pc.invert(pc.is_in(rows["split"], pa.array(SEEN_SPLITS))))
    return [str(content) for content in unseen["sha256"].drop_null().to_pylist()]
