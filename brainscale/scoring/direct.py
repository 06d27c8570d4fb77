"""Score a few files in this process, without Ray and without a scores folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.models.bundle import Bundle
from brainscale.models.engines import Engine
from brainscale.reading.file_tables import file_table
from brainscale.reading.reader import plan_files, read_tables
from brainscale.reading.request import ReadRequest
from brainscale.reading.sources import list_files
from brainscale.scoring.predictions import score_rows, stack_planes


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRows:
    """Predictions of some samples, and what the network saw of them.

    Attributes:
        predictions: table of schema PREDICTIONS.
        planes: uint8 [n, S, S], the planes of the rows with a probability, in their order.
    """

    predictions: pa.Table
    planes: np.ndarray


def score_sources(
    sources: Sequence[str], engine: Engine, bundle: Bundle, threshold: float, key: bytes
) -> Iterator[ScoredRows]:
    """Read and score every sample of the sources, a few files at a time.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses.
        engine: engine of the model.
        bundle: the model.
        threshold: operating threshold of the probability of a tumour.
        key: secret key for the hashes of series and patients.

    Yields:
        Predictions with planes; a sample that cannot be read is a row with an error.

    Raises:
        SourceError: a source does not exist or contains no file.
    """
    info = bundle.info
    request = ReadRequest(preprocess=info.preprocess, key=key)
    files = plan_files(list_files(sources), request).files
    for rows in read_tables(file_table(files), request=request):
        predictions = score_rows(rows, engine, bundle, threshold)
        has_plane, is_scored = (
            pc.is_valid(column).to_numpy() for column in (rows["plane"], predictions["probability"])
        )
        planes = stack_planes(rows["plane"], info.preprocess.image_size)
        yield ScoredRows(predictions=predictions, planes=planes[is_scored[has_plane]])
