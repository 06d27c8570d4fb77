"""The samples of a run: open or make the manifest, check its labels and splits, and count what is left out."""

from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config
from brainscale.dataset.from_sources import open_or_index
from brainscale.dataset.inclusion import EMPTY, describe_left_out, mark_left_out
from brainscale.dataset.manifest import require_paths, require_readable
from brainscale.dataset.splits import assign_splits, notice_of_hashing
from brainscale.dataset.summary import describe_gaps
from brainscale.errors import ManifestError


def prepare_manifest(
    data: str | pa.Table, config: Config, on_notice: Callable[[str], None] = lambda text: None
) -> pa.Table:
    """Return the manifest of a run: opened or made by indexing, checked, and split if it has no splits yet.

    Args:
        data: a manifest (a table, a path or an address), or a source to index.
        config: classes, preprocessing and split fractions.
        on_notice: called with each message for the user, such as the number of samples without a known patient.

    Raises:
        ManifestError: a label is missing or unknown, a split has no sample of some class, or all samples are left out.
    """
    manifest = mark_left_out(open_or_index(data, config, on_notice), config.data)
    name = data if isinstance(data, str) else "the manifest"
    require_readable(manifest, name)
    require_paths(manifest, name)
    left_out = describe_left_out(manifest)
    usable = manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.is_null(manifest["left_out"])))
    if not len(usable):
        raise ManifestError(f"no sample of {name} can be trained on: {left_out or 'all slices are empty'}")
    in_a_split = usable.filter(pc.is_valid(usable["split"]))
    _check_labels(in_a_split if len(in_a_split) else usable, config, name)
    hashing = None
    if not len(in_a_split):
        manifest = assign_splits(manifest, val=config.split.val, test=config.split.test, seed=config.split.seed)
        hashing = notice_of_hashing(manifest)
    for text in (left_out, *describe_gaps(manifest, config.data), hashing):
        if text:
            on_notice(text)
    manifest = _clear_splits(manifest, pc.is_valid(manifest["left_out"]))
    for split in ("train", "val"):
        labels = set(manifest.filter(pc.equal(manifest["split"], split))["label"].to_pylist())
        missing = [name for name in config.data.classes if name not in labels]
        if missing:
            raise ManifestError(
                f"no sample of class '{missing[0]}' in split '{split}' of {name}: add images of this class, "
                "or split again"
            )
    return manifest


def _clear_splits(manifest: pa.Table, rows: pa.Array) -> pa.Table:
    """Return the manifest with the given rows (bool) in no split."""
    splits = pc.if_else(rows, pa.scalar(None, pa.string()), manifest["split"])
    return manifest.set_column(manifest.schema.get_field_index("split"), manifest.schema.field("split"), splits)


def _check_labels(usable: pa.Table, config: Config, data: str) -> None:
    labels = usable["label"].to_pylist()
    classes = list(config.data.classes)
    unlabelled = [i for i, label in zip(usable["sample_id"].to_pylist(), labels, strict=True) if label is None]
    if unlabelled:
        folders = ", ".join(sorted(name for names in config.data.classes.values() for name in names))
        raise ManifestError(
            f"{len(unlabelled)} sample(s) of {data} have no label, for example '{unlabelled[0]}': move them into "
            f"folders named after a class ({folders}), or add their folder names to data.classes"
        )
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise ManifestError(
            f"unknown label '{unknown[0]}' in {data}: the classes of this configuration are {', '.join(classes)}; "
            "index with the same --config, or add the label to data.classes"
        )
    if len(set(labels)) < 2:
        raise ManifestError(f"all samples of {data} have the label '{labels[0]}': add images of another class")


def list_labelled_samples(manifest: pa.Table, split: str, config: Config) -> tuple[list[str], list[int]]:
    """Return the sample ids and the class indices of one split."""
    class_index = {name: i for i, name in enumerate(config.data.classes)}
    rows = manifest.filter(pc.equal(manifest["split"], split))
    return rows["sample_id"].to_pylist(), [class_index[label] for label in rows["label"].to_pylist()]


def count_left_out(manifest: pa.Table) -> dict[str, int]:
    """Return reason → number of samples in no split: an error code, a reason of `mark_left_out`, or `no_split`."""
    rows = manifest.filter(pc.is_null(manifest["split"]))
    is_empty = pc.if_else(pc.fill_null(rows["empty"], False), EMPTY, pa.scalar(None, pa.string()))
    reasons = pc.coalesce(rows["error_code"], rows["left_out"], is_empty, "no_split")
    return dict(sorted(Counter(reasons.to_pylist()).items()))
