"""Decide which samples training leaves out, by what their files say of how they were taken.

A sample whose file says nothing, such as a PNG, is kept.
"""

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.data_sections import DataConfig
from brainscale.dataset.columns import replace_column
from brainscale.dataset.manifest import count_values

EMPTY = "empty_slice"
"""Reason of slices that show almost nothing; no configuration includes them."""


def mark_left_out(manifest: pa.Table, data: DataConfig) -> pa.Table:
    """Return the manifest with the column `left_out`: why training leaves a sample out, null where it does not.

    Where several reasons apply, it is the first of: empty_slice, secondary_capture, burned_in, localizer, derived,
    other_modality, other_orientation. A row with an error has none: its `error_code` says why.

    Args:
        manifest: samples, read or not.
        data: `include`, and `slices`, the orientation to train on.
    """
    include, kind = data.include, manifest["image_kind"]
    is_capture = _is(kind, "secondary_capture")
    is_modality = (
        pa.scalar(True)
        if include.modalities is None
        else pc.is_in(manifest["modality"], pa.array([None, *include.modalities], pa.string()))
    )
    reasons = {
        EMPTY: manifest["empty"],
        "secondary_capture": pc.and_(is_capture, not include.secondary_captures),
        "burned_in": pc.and_(pc.and_not(manifest["burned_in"], is_capture), not include.burned_in),
        "localizer": pc.and_(_is(kind, "localizer"), not include.localizers),
        "derived": pc.and_(_is(kind, "derived"), not include.derived),
        "other_modality": pc.invert(is_modality),
        "other_orientation": pc.and_(
            pc.not_equal(manifest["orientation"], data.slices), not include.other_orientations
        ),
    }
    left_out: pa.Array = pa.nulls(len(manifest), pa.string())
    for reason, rows in reversed(reasons.items()):
        left_out = pc.if_else(pc.fill_null(rows, False), reason, left_out)
    left_out = pc.if_else(pc.is_null(manifest["error_code"]), left_out, pa.scalar(None, pa.string()))
    return replace_column(manifest, "left_out", left_out)


def clear_left_out(manifest: pa.Table) -> pa.Table:
    """Return the manifest without the marks of an earlier training."""
    return replace_column(manifest, "left_out", pa.nulls(len(manifest), pa.string()))


def describe_left_out(manifest: pa.Table) -> str | None:
    """Return a line for the user on the samples that a configuration may include but does not; None without any."""
    chosen = _count_chosen(manifest)
    return (
        None if chosen is None else f"{chosen[0]} sample(s) are left out of training ({chosen[1]}): see data.include."
    )


def describe_measured(rows: pa.Table, data: DataConfig) -> str | None:
    """Return a line for the user on labelled samples of kinds that training leaves out; None without any.

    Args:
        rows: the samples that a model is evaluated on.
        data: how the model was trained.
    """
    chosen = _count_chosen(mark_left_out(rows.filter(pc.is_valid(rows["label"])), data))
    if chosen is None:
        return None
    return (
        f"{chosen[0]} of {len(rows)} sample(s) are of kinds that training leaves out ({chosen[1]}), and the metrics "
        "include them. Metrics of each kind: --by modality, --by image_kind, --by orientation or --by burned_in."
    )


def _count_chosen(manifest: pa.Table) -> tuple[int, str] | None:
    """Return the number of samples that a configuration may include but does not, and that of each reason."""
    chosen = manifest.filter(pc.not_equal(manifest["left_out"], EMPTY))
    counts = count_values(chosen, "left_out")
    return (len(chosen), ", ".join(f"{reason} {count}" for reason, count in counts.items())) if counts else None


def _is(column: pa.ChunkedArray, value: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(column, value), False)
