"""Pictures for pages: a few samples are read again from their sources and made small."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from brainscale.config.sections import Config
from brainscale.reading.file_tables import files_of_manifest
from brainscale.reading.reader import read_file
from brainscale.reading.request import ReadRequest

SIDE = 224
"""Pixels of the longer side of a picture."""
_QUALITY = 80  # of JPEG


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One sample as a page shows it.

    Attributes:
        sample_id: its name.
        label: its class; None without one.
        width: width of the stored image, pixels.
        height: height of the stored image, pixels.
        address: the picture as a `data:` address; None if the sample could not be read again.
        error: error code, if it could not be read again.
    """

    sample_id: str
    label: str | None
    width: int
    height: int
    address: str | None
    error: str | None


def read_pictures(manifest: pa.Table, rows: Iterable[int], config: Config) -> dict[int, Picture]:
    """Read some samples again, one file after the other, and return a small picture of each.

    Args:
        manifest: the samples.
        rows: numbers of the rows to read; a row that occurs more than once is read once.
        config: window and orientation of slices, and limits.

    Returns:
        Row → picture, with the aspect of the stored image.
    """
    numbers = sorted(set(rows))
    chosen = manifest.take(pa.array(numbers, pa.int64()))
    known = chosen.select(["sample_id", "label", "width", "height"]).to_pylist()
    facts = {row["sample_id"]: (number, row) for number, row in zip(numbers, known, strict=True)}
    preprocess = config.data.preprocess.model_copy(update={"image_size": SIDE, "crop": 1.0})
    pictures: dict[int, Picture] = {}
    for file in files_of_manifest(chosen, preprocess):
        for sample in read_file(file, ReadRequest(preprocess=preprocess, limits=config.limits)):
            if sample.sample_id in facts:
                number, row = facts[sample.sample_id]
                address = None if sample.plane is None else _encode(sample.plane, row["width"], row["height"])
                pictures[number] = Picture(**row, address=address, error=sample.error_code)
    return pictures


def _encode(plane: np.ndarray, width: int, height: int) -> str:
    """Return a square plane as a JPEG with the aspect of the stored image, as a `data:` address."""
    longer = max(width, height)
    size = (max(1, round(SIDE * width / longer)), max(1, round(SIDE * height / longer)))
    file = io.BytesIO()
    Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR, reducing_gap=2).save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
