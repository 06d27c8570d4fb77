"""Check the arguments of `results` before anything starts; needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from brainscale.errors import FormatError, OutputError, UsageError
from brainscale.evaluation.study.files import StudyFile
from brainscale.storage.ownership import describe_origin, require_own
from brainscale.storage.tables import read_table
from brainscale.storage.workspace import require_folder

OWN_FILES = (".lock", "runs/*", "data/*")
"""Files of which a folder of runs has one at least."""
MODELS_KIND = "study models"
"""Kind of a table of released models."""


def check_studies(
    files: Sequence[StudyFile],
    data: Mapping[str, str],
    out: str,
    parts: Iterable[str],
    rows: Iterable[str],
    *,
    page: str | None = None,
    models: str | None = None,
    overwrite: bool = False,
) -> None:
    """Check what can be checked without reading the data.

    Args:
        files: the studies.
        data: data set → where it lies.
        out: folder of all runs.
        parts: names of the parts to run.
        rows: names of the rows to run.
        page: the page to write.
        models: the table of released models to use.
        overwrite: whether the page may replace another file.

    Raises:
        UsageError: no study has such a data set or such a part, no part such a row, or weights are other ones.
        OutputError: the folder or the page cannot be written or holds something else, or there is no such table.
    """
    known_data = {name for file in files for name in (*file.study.data, *file.study.weights)}
    known_parts = {name for file in files for name in file.study.parts}
    known_rows = {name for file in files for part in file.study.parts.values() for name in part.rows}
    for option, asked, known in (
        ("--data", data, known_data),
        ("--part", parts, known_parts),
        ("--row", rows, known_rows),
    ):
        if unknown := sorted(set(asked) - known):
            raise UsageError(f"{option} {unknown[0]}: choose from {', '.join(sorted(known))}")
    if not any(name in file.study.data for file in files for name in data):
        wanted = next(name for file in files for name in file.study.data)
        raise UsageError(f"no data set is given: add --data {wanted}=PATH")
    for name, place in data.items():
        if not place or not Path(place).exists():
            raise UsageError(f"--data {name}={place}: there is no such file or folder")
    for file in files:
        file.with_places(data)  # refuses other weights than the study names
    require_folder(out, OWN_FILES, "results")
    if page is not None:
        _require_own_page(page, origin_of(files), overwrite=overwrite)
    if models is not None:
        read_models(models)


def origin_of(files: Sequence[StudyFile]) -> str:
    """Return what a page of these studies says about who made it, the same on every machine."""
    return describe_origin("results", {"studies": [file.name for file in files]})


def _require_own_page(page: str, origin: str, *, overwrite: bool) -> None:
    """Check that a page may be written, and the table beside it, which says for both which command made them.

    Raises:
        OutputError: another file is there.
    """
    table_file = Path(page).with_suffix(".parquet")
    require_own(table_file, origin, kind="results", overwrite=overwrite, option="--page")
    if not table_file.exists():
        require_own(page, origin, overwrite=overwrite, option="--page")


def read_models(table_file: str) -> pa.Table:
    """Return a table of released models.

    Raises:
        OutputError: the table cannot be read.
    """
    try:
        return read_table(table_file, MODELS_KIND)
    except (FileNotFoundError, FormatError) as error:
        raise OutputError(f"--models {table_file}: {error}") from None
