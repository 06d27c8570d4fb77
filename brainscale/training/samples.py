"""The samples of a run: manifest, labels, splits, and what is left out."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.indexer import open_or_index
from brainscale.dataset.manifest import (
    require_paths,
    require_readable,
)
from brainscale.dataset.splits import assign_splits
from brainscale.errors import ManifestError


def prepare_manifest(data: str | pa.Table, config: Config) -> pa.Table:
    """The manifest of a run: read or made, checked, and split if it is not.

    Raises:
        ManifestError: a label is missing or unknown, or a side or a class is empty.
    """
    manifest = open_or_index(data, config)
    name = data if isinstance(data, str) else "the manifest"
    require_readable(manifest, name)
    require_paths(manifest, name)
    readable = manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.invert(_is_empty(manifest))))
    given = readable.filter(pc.is_valid(readable["split"]))  # a split of one's own leaves out what has no side
    _check_labels(given if len(given) else readable, config, name)
    if not len(given):
        manifest = assign_splits(manifest, val=config.split.val, test=config.split.test, seed=config.split.seed)
    manifest = _without_sides(manifest, _is_empty(manifest))
    for side in ("train", "val"):
        present = set(manifest.filter(pc.equal(manifest["split"], side))["label"].to_pylist())
        absent = [name for name in config.data.classes if name not in present]
        if absent:
            raise ManifestError(
                f"no sample of class '{absent[0]}' in the {side} part of {name}: add some, or split again"
            )
    return manifest


def _is_empty(manifest: pa.Table) -> pa.Array:
    """Whether a row is a slice that shows next to nothing."""
    return pc.fill_null(manifest["empty"], False)


def _without_sides(manifest: pa.Table, rows: pa.Array) -> pa.Table:
    """The manifest with some rows on no side."""
    sides = pc.if_else(rows, pa.scalar(None, pa.string()), manifest["split"])
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), sides)


def _check_labels(readable: pa.Table, config: Config, data: str) -> None:
    labels = readable["label"].to_pylist()
    classes = list(config.data.classes)
    unlabelled = [i for i, label in zip(readable["sample_id"].to_pylist(), labels, strict=True) if label is None]
    if unlabelled:
        folders = ", ".join(sorted(name for names in config.data.classes.values() for name in names))
        raise ManifestError(
            f"{len(unlabelled)} samples of {data} have no label, '{unlabelled[0]}' first: put them into "
            f"folders named after a class ({folders}), or say with data.classes what their folder means"
        )
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise ManifestError(f"label '{unknown[0]}' of {data} is no class of data.classes: known: {', '.join(classes)}")
    if len(set(labels)) < 2:
        raise ManifestError(f"{data} holds one class only, '{labels[0]}': a classifier needs two or more")


def labelled_samples(manifest: pa.Table, side: str, config: Config) -> tuple[list[str], list[int]]:
    """Sample ids and class indices of one side."""
    number = {name: i for i, name in enumerate(config.data.classes)}
    rows = manifest.filter(pc.equal(manifest["split"], side))
    return rows["sample_id"].to_pylist(), [number[label] for label in rows["label"].to_pylist()]


def left_out(manifest: pa.Table) -> dict[str, int]:
    """Why samples of a manifest stand on no side: error codes, an empty slice, or no split of their own."""
    rows = manifest.filter(pc.is_null(manifest["split"]))
    reasons = zip(rows["error_code"].to_pylist(), rows["empty"].to_pylist(), strict=True)
    return dict(sorted(Counter(code or ("empty_slice" if empty else "no_split") for code, empty in reasons).items()))
