"""Optional outputs of a scores folder: the table of scans, and heatmaps of the most confident positives."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.reading.file_tables import windows_in
from brainscale.reading.reader import read_planes
from brainscale.reading.sources import SourceFile
from brainscale.schema import WINDOW
from brainscale.scoring.parts import read_predictions, read_rows
from brainscale.scoring.per_scan import COLUMNS, ORDER, scan_ids, summarise_scans
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Scores
from brainscale.scoring.scorer import request_of
from brainscale.storage.folder import Folder
from brainscale.storage.remote import split_options
from brainscale.storage.tables import require_replaceable, write_table
from brainscale.storage.workspace import open_workspace


def scans_file(folder: Folder) -> str:
    """Return the path or address of the table of scans: beside the folder, where a glob for its parts meets it not."""
    base, options = split_options(folder.location)
    return f"{base.rstrip('/')}.scans.parquet{options}"


def write_scans(folder: Folder, scores: Scores) -> Scores:
    """Write the table with one row for each scan, and return the scores with its place and its number of rows."""
    file = scans_file(folder)
    require_replaceable(file, "scans")
    table = _summarise_parts(folder, scores.parts)
    write_table(table, file, "scans")
    return replace(scores, scans=len(table), scans_file=file)


def _summarise_parts(folder: Folder, parts: Sequence[str]) -> pa.Table:
    """Return the table of scans: part by part, and once more for the scans that are in several parts."""
    table = pa.concat_tables(summarise_scans(read_rows(folder, part, COLUMNS)) for part in parts)
    counts = table["scan"].value_counts()
    several = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(several):
        rows = (read_rows(folder, part, COLUMNS) for part in parts)
        spread = pa.concat_tables(some.filter(pc.is_in(scan_ids(some), several)) for some in rows)
        alone = table.filter(pc.invert(pc.is_in(table["scan"], several)))
        table = pa.concat_tables([alone, summarise_scans(spread)])
    return table.sort_by(ORDER)


def draw_heatmaps(
    folder: Folder,
    scores: Scores,
    out: str,
    files: Iterable[SourceFile],
    job: ScoringJob,
    max_heatmaps: int,
    *,
    show_burned_in: bool = False,
) -> int:
    """Draw heatmaps of the samples with the highest probability of a tumour, and return the number drawn.

    Args:
        folder: the scores folder.
        scores: what it holds.
        out: path or address of the folder for the pictures.
        files: the files that were scored.
        job: the model that scored them, and whether it hashed their names.
        max_heatmaps: maximum number of pictures.
        show_burned_in: whether to draw samples whose pixels may show text, such as a name.
    """
    from brainscale.models.heatmap_pictures import (
        write_heatmaps,
    )  # imports torch, which scoring does not need otherwise

    columns = ["sample_id", "probability", "prediction", "burned_in", *(field.name for field in WINDOW)]
    table = read_predictions(folder, scores.parts, columns)
    if not show_burned_in:
        table = table.filter(pc.invert(pc.fill_null(table["burned_in"], False)))
    negative = next(iter(job.bundle.info.classes))
    positive = table.filter(pc.not_equal(table["prediction"], negative))
    order = [("probability", "descending"), ("sample_id", "ascending")]
    table = positive.sort_by(order).slice(0, max_heatmaps)
    rows = table.to_pylist()
    planes = read_planes(files, [row["sample_id"] for row in rows], request_of(job), windows_in(table))
    readable = [row for row in rows if row["sample_id"] in planes]  # a file may have been deleted after scoring
    with open_workspace(out, (), own_files=["*"]) as pictures:
        write_heatmaps(job.bundle, [planes[row["sample_id"]] for row in readable], readable, pictures.path)
    return len(readable)
