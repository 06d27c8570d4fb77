"""A unit of work → rows: the one place where bytes become samples, for index, tensors and score alike.

Every unit gives at least one row: a plane, or an error with a stable code. Nothing raises.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from brainscale.config import PreprocessConfig
from brainscale.errors import SampleError, SourceError
from brainscale.formats import raster
from brainscale.preprocess import plane, resized_side
from brainscale.schema import MANIFEST
from brainscale.sources import Unit, read_bytes

MAX_NBYTES = 512 * 2**20  # of one encoded file
MAX_PIXELS = 100_000_000  # of one frame: 10,000 × 10,000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one row knows after its bytes were read.

    Attributes:
        sample_id: the key of every table.
        uri: where the bytes are.
        nbytes: encoded size.
        sha256: of the encoded bytes.
        format: by content.
        width: as shown, pixels.
        height: as shown, pixels.
        plane: uint8 [S, S], or None for an error.
        error_code: stable identifier, or None.
        error: one line of text, or None.
    """

    sample_id: str
    uri: str
    nbytes: int | None = None
    sha256: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    plane: np.ndarray | None = None
    error_code: str | None = None
    error: str | None = None


def read(unit: Unit, spec: PreprocessConfig) -> list[Sample]:
    """Read, recognise, decode and preprocess one unit.

    Args:
        unit: the file.
        spec: how a frame becomes a plane.

    Returns:
        One row for each sample in it; a row with an error where one cannot be read.
    """
    try:
        data = read_bytes(unit.uri, MAX_NBYTES)
    except (OSError, SourceError) as error:
        return [_failed(unit, SampleError("unreadable", _reason(error)))]
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        frame = _decode(data, spec)
    except SampleError as error:
        return [_failed(unit, error, nbytes=len(data), sha256=sha256)]
    return [
        Sample(
            sample_id=unit.sample_id,
            uri=unit.uri,
            nbytes=len(data),
            sha256=sha256,
            format=frame.format,
            width=frame.width,
            height=frame.height,
            plane=plane(frame.pixels, spec),
        )
    ]


def _decode(data: bytes, spec: PreprocessConfig) -> raster.Frame:
    if not data:
        raise SampleError("empty_file", "the file holds no bytes")
    if len(data) > MAX_NBYTES:
        raise SampleError("file_too_large", f"more than {MAX_NBYTES} bytes")
    if not raster.recognises(data[:16]):
        raise SampleError("unsupported_format", f"not one of {', '.join(raster.FORMATS)}, by its content")
    return raster.decode(data, MAX_PIXELS, enough=2 * resized_side(spec))


def _failed(unit: Unit, error: SampleError, **known: object) -> Sample:
    return Sample(
        sample_id=unit.sample_id,
        uri=unit.uri,
        error_code=error.code,
        error=error.text,
        **known,  # type: ignore[arg-type]
    )


def _reason(error: Exception) -> str:
    """Why a file could not be opened, without its path: tables hold no path of a machine in free text."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist any more"
    if isinstance(error, PermissionError):
        return "permission denied"
    return f"the file cannot be read ({type(error).__name__})"


COLUMNS = pa.schema(
    [
        *(MANIFEST.field(n) for n in ("sample_id", "uri", "member", "frame", "format", "width", "height")),
        *(MANIFEST.field(n) for n in ("nbytes", "sha256", "error_code", "error")),
        pa.field("plane", pa.binary()),  # uint8, image_size × image_size, row by row
    ]
)
"""What `read_table` returns."""


def unit_table(units: Sequence[Unit]) -> pa.Table:
    """Units as a table that Ray Data can carry: sample_id, uri."""
    return pa.table(
        {"sample_id": [u.sample_id for u in units], "uri": [u.uri for u in units]},
        schema=pa.schema([MANIFEST.field("sample_id"), MANIFEST.field("uri")]),
    )


def read_table(units: pa.Table, *, spec: PreprocessConfig, planes: bool = True) -> pa.Table:
    """`read` for each row of a table with sample_id and uri.

    Args:
        units: at least sample_id and uri.
        spec: how a frame becomes a plane.
        planes: whether to keep them; index does not need them.

    Returns:
        `COLUMNS`, at least one row for each unit.
    """
    pairs = zip(units["sample_id"].to_pylist(), units["uri"].to_pylist(), strict=True)
    samples = [s for i, u in pairs for s in read(Unit(sample_id=i, uri=u), spec)]
    rows = [{**vars(s), "plane": s.plane.tobytes() if planes and s.plane is not None else None} for s in samples]
    return pa.Table.from_pylist(rows, schema=COLUMNS)
