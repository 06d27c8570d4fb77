"""Check the arguments of `results` before anything starts; needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from brainscale.errors import UsageError
from brainscale.evaluation.study.files import StudyFile
from brainscale.storage.workspace import require_folder

OWN_FILES = (".lock", "runs/*", "data/*")
"""Files of which a folder of runs has one at least."""


def check_studies(
    files: Sequence[StudyFile], data: Mapping[str, str], out: str, parts: Iterable[str], rows: Iterable[str]
) -> None:
    """Check what can be checked without reading the data.

    Args:
        files: the studies.
        data: data set → where it lies.
        out: folder of all runs.
        parts: names of the parts to run.
        rows: names of the rows to run.

    Raises:
        UsageError: no study has such a data set or such a part, or no part such a row.
        OutputError: the folder cannot be written, or holds other files.
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
    require_folder(out, OWN_FILES, "results")
