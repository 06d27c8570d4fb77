"""Optional outputs of a scores folder: the table of scans or patients, and heatmaps of the most confident positives."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pyarrow.compute as pc

from brainscale.models.bundle import Bundle, mark_edited
from brainscale.reading.file_tables import windows_in
from brainscale.reading.reader import read_planes
from brainscale.reading.sources import SourceFile
from brainscale.schema import WINDOW
from brainscale.scoring.parts import read_predictions, read_rows
from brainscale.scoring.per_unit import describe_missing_point, table_kind, tabulate_units
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Scores
from brainscale.scoring.scorer import request_of
from brainscale.stats.units import UNIT_COLUMNS, Unit, UnitScores, unit_ids
from brainscale.storage.folder import Folder
from brainscale.storage.ownership import describe_origin, require_own
from brainscale.storage.remote import split_options
from brainscale.storage.tables import write_table
from brainscale.storage.workspace import open_workspace

HEATMAP_FILES = ("heatmaps.parquet", "[0-9][0-9][0-9]-*.png")
"""Files in a folder of heatmaps."""


def units_file(folder: Folder, unit: Unit) -> str:
    """Return the path or address of the table of units: beside the folder, where a glob for its parts meets it not."""
    base, options = split_options(folder.location)
    return f"{base.rstrip('/')}.{table_kind(unit)}.parquet{options}"


def require_own_units(folder: Folder, unit: Unit, bundle: Bundle) -> None:
    """Check that the table of units may be written: nothing is in its place, or a table of the same model.

    Raises:
        OutputError: another file is there.
        StorageError: the object store does not answer.
    """
    file = units_file(folder, unit)
    require_own(file, _origin_of_units(unit, bundle), kind=table_kind(unit), can_overwrite=False)


def _origin_of_units(unit: Unit, bundle: Bundle) -> str:
    return describe_origin("score", {"unit": unit, "model": bundle.sha256})


def write_units(
    folder: Folder, scores: Scores, unit: Unit, bundle: Bundle, on_notice: Callable[[str], None] = lambda text: None
) -> Scores:
    """Write the table with one row for each scan or patient, and return the scores with its place and number of rows.

    Args:
        folder: the scores folder.
        scores: what it holds.
        unit: scan or patient.
        bundle: the model; the table says if it was edited.
        on_notice: called with each message for the user, such as that the model has no operating point for the unit.
    """
    file = units_file(folder, unit)
    info, parts, without = bundle.info, [], 0
    for part in scores.parts:
        rows = read_rows(folder, part, list(UNIT_COLUMNS))
        without += unit_ids(rows, unit).null_count
        parts.append(UnitScores.from_predictions(rows, unit, len(info.classes)))
    table = mark_edited(tabulate_units(UnitScores.merge(parts), unit, info), bundle)
    write_table(table, file, table_kind(unit), _origin_of_units(unit, bundle))
    if unit not in info.operating_points:
        on_notice(f"Note: no {unit} has a prediction: {describe_missing_point(unit)}.")
    if without:
        on_notice(f"Note: {without} sample(s) are in no {unit}: their {unit} is not known.")
    return replace(scores, unit=unit, units=len(table), units_file=file)


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
    # imports torch, which scoring does not need otherwise
    from brainscale.models.heatmap_pictures import write_heatmaps

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
    with open_workspace(out, (), own_files=HEATMAP_FILES, what="heatmaps") as pictures:
        write_heatmaps(job.bundle, [planes[row["sample_id"]] for row in readable], readable, pictures.path)
    return len(readable)
