"""One image, slice or frame of a source, alone and as a row of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pyarrow as pa

from brainscale.reading.acquisition import UNSTATED, Acquisition
from brainscale.reading.series import Slice, SliceFacts, SliceWindow
from brainscale.schema import MANIFEST

LATER = ("label", "group", "left_out", "split", "fold")  # columns of a manifest that come from no file
COLUMNS = pa.schema(
    [
        *(MANIFEST.field(name) for name in MANIFEST.names if name not in LATER),
        pa.field("patient_with_issuer", pa.string()),  # two of one patient: the same identifier by two issuers
        pa.field("patient_placeholder", pa.string()),  # why a file that has an identifier names no patient
        pa.field("note", pa.string()),  # what is odd about a file that was read all the same
        pa.field("instance", pa.string()),  # this and the next four: `series.SliceFacts`, until the window is known
        pa.field("geometry", pa.list_(pa.float64())),
        pa.field("number", pa.float64()),
        pa.field("inverted", pa.bool_()),
        pa.field("bright", pa.float64()),
        pa.field("histogram", pa.binary()),  # of its intensities
        pa.field("plane", pa.binary()),  # uint8, image_size × image_size, row by row
    ]
)
"""What `read_tables` yields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingSlice:
    """What a slice has until the window of its series is known.

    Attributes:
        facts: what it tells of itself.
        histogram: of its intensities.
        kept: name under which the decoder keeps it, if it does.
    """

    facts: SliceFacts
    histogram: bytes
    kept: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One image, slice or frame of a source, or the error that stands in its place.

    Attributes:
        sample_id: path below the source, `!member` in an archive, `#frame` in a file of several frames.
        uri: absolute local path or address of the file.
        member: path inside the archive; None outside one.
        frame: number in a file of several frames, from 0; None for a file of one image.
        format: file format by content, such as JPEG, DICOM or NIfTI; None where it was not recognised.
        mode: how the file stores a pixel, such as RGB or MONOCHROME2 12.
        width: width of the stored image as shown, pixels.
        height: height of the stored image as shown, pixels.
        nbytes: size of the encoded file or member, bytes.
        sha256: hash of the encoded bytes.
        phash: hash of the whole image, 16 hexadecimal digits; None where not requested, or without contrast.
        head_phash: hash of the head, the same way.
        signature: the head in 16 × 16 bytes, to recognise it again; None where the hashes are.
        patient: keyed hash of the patient's identifier; None where the file names none, or a placeholder.
        patient_with_issuer: keyed hash of the identifier and its issuer; None where the file names no issuer.
        patient_placeholder: the word that stands in place of an identifier, such as anonymous.
        scan: keyed hash of the series; None where the file names none.
        empty: whether a slice shows next to nothing.
        slice_index: number of a slice in its series or volume, from 0; None where there is none.
        window_low: intensity that becomes 0; None where the picture is no slice, or its series is not known yet.
        window_high: intensity that becomes 255, the same way.
        window_of: `volume`, or `slice` where the window comes from this slice alone.
        waiting: of a slice whose window is not known yet; None for all else.
        acquisition: how the picture was taken.
        plane: uint8 [image_size, image_size]; None where not requested, or with an error.
        error_code: stable identifier of the error; None for a sample that was read.
        error: what is wrong, in one line.
        note: what is odd about a file that was read all the same, in one line.
    """

    sample_id: str
    uri: str
    member: str | None = None
    frame: int | None = None
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    nbytes: int | None = None
    sha256: str | None = None
    phash: str | None = None
    head_phash: str | None = None
    signature: bytes | None = field(default=None, repr=False)
    patient: str | None = None
    patient_with_issuer: str | None = None
    patient_placeholder: str | None = None
    scan: str | None = None
    empty: bool = False
    slice_index: int | None = None
    window_low: float | None = None
    window_high: float | None = None
    window_of: str | None = None
    waiting: WaitingSlice | None = field(default=None, repr=False)
    acquisition: Acquisition = UNSTATED
    plane: np.ndarray | None = field(default=None, repr=False)
    error_code: str | None = None
    error: str | None = None
    note: str | None = None


def as_slice(sample_id: str, scan: str | None, width: int | None, height: int | None, facts: SliceFacts) -> Slice:
    """Return a sample as a slice of its series; one that names no series is in a series with its file's frames."""
    return Slice(sample_id=sample_id, series=scan or sample_id.partition("#")[0], size=(width, height), facts=facts)


def window_fields(window: SliceWindow) -> dict[str, object]:
    """Return the fields of a sample that its window decides."""
    return {
        "slice_index": window.slice_index,
        "window_low": window.low,
        "window_high": window.high,
        "window_of": "slice" if window.alone else "volume",
        "empty": window.empty,
    }


def sample_table(samples: Sequence[Sample]) -> pa.Table:
    """Return samples as a table of schema `COLUMNS`."""
    columns = {column.name: [getattr(sample, column.name) for sample in samples] for column in fields(Sample)}
    acquisitions, waiting = columns.pop("acquisition"), columns.pop("waiting")
    columns |= {column.name: [getattr(part, column.name) for part in acquisitions] for column in fields(Acquisition)}
    columns["histogram"] = [one and one.histogram for one in waiting]
    columns |= {f.name: [one and getattr(one.facts, f.name) for one in waiting] for f in fields(SliceFacts)}
    # as bytes: Arrow copies a memoryview without that copy, and never lets go of it
    columns["plane"] = [None if plane is None else plane.tobytes() for plane in columns["plane"]]
    return pa.Table.from_pydict(columns, schema=COLUMNS)


def view_planes(column: pa.Array, side: int) -> np.ndarray:
    """Return a binary column of equal lengths as uint8 [n, S, S], without a copy."""
    if len(column) == 0:
        return np.empty((0, side, side), np.uint8)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :]
    data = np.frombuffer(column.buffers()[2], np.uint8, count=len(column) * side * side, offset=int(offsets[0]))
    return data.reshape(len(column), side, side)
