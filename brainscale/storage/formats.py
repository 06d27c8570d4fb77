"""Tables in the format that the suffix of their name decides: Parquet, CSV, JSON, Markdown, LaTeX.

CSV, JSON, Markdown and LaTeX are for people and other programs: no command reads them.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from brainscale.errors import UsageError
from brainscale.formatting import escape_markdown
from brainscale.storage.local import make_folder, replacing
from brainscale.storage.remote import ObjectStore, is_address, split_address, split_options
from brainscale.storage.tables import write_table

TABLE, CSV, JSON, MARKDOWN, LATEX, FOLDER = ".parquet", ".csv", ".json", ".md", ".tex", "/"
"""Suffixes of the formats; a folder of shards ends with a slash."""
TEXTS = (CSV, JSON, MARKDOWN, LATEX)
COMMENTS = {MARKDOWN: "<!-- {} -->", LATEX: "% {}"}
"""How a text says its origin."""


def is_folder_name(location: str | Path) -> bool:
    """Return whether a path or an address ends with a slash, as that of a folder of shards may."""
    return split_options(str(location))[0].endswith("/")


def suffix_of(location: str | Path) -> str:
    """Return the suffix of a path or an address in lower case, `/` for the name of a folder, or nothing."""
    if is_folder_name(location):
        return FOLDER
    return PurePosixPath(split_options(str(location))[0]).suffix.lower()


def require_format(location: str | Path, suffixes: Sequence[str], option: str = "--out") -> str:
    """Return the suffix of an output, which decides its format.

    Args:
        location: path or address of the output.
        suffixes: those that are allowed.
        option: option that names the output, for the message.

    Raises:
        UsageError: it is another suffix, or none.
    """
    suffix = suffix_of(location)
    if suffix in suffixes:
        return suffix
    names = ["a slash for a folder" if name == FOLDER else name for name in suffixes]
    raise UsageError(
        f"{option} {location}: the suffix decides the format, and must be {', '.join(names[:-1])} or {names[-1]}"
    )


def format_csv(table: pa.Table) -> str:
    """Return a table as CSV with a header; nulls are empty, and lists and other values within values are JSON."""
    rows: list[str] = []
    sink = SimpleNamespace(write=lambda row: rows.append(row.removesuffix("\r\n")))
    writer = csv.writer(sink)  # whose line ends make it quote both kinds of them within a text
    writer.writerow(table.column_names)
    for batch in table.to_batches():
        columns = [column.to_pylist() for column in batch.columns]
        writer.writerows([_cell(value) for value in row] for row in zip(*columns, strict=True))
    return "\n".join([*rows, ""])


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def format_json(table: pa.Table) -> str:
    """Return a table as a JSON list with an object for each row."""
    return json.dumps(table.to_pylist(), indent=2, ensure_ascii=False) + "\n"


def format_markdown(table: pa.Table) -> str:
    """Return a table as a Markdown table; nulls are empty."""
    rows = [
        ["" if value is None else escape_markdown(_cell(value)) for value in row.values()] for row in table.to_pylist()
    ]
    lines = [table.column_names, ["---"] * table.num_columns, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_output(table: pa.Table, location: str | Path, kind: str, origin: str) -> None:
    """Write a table in the format of its suffix, one of `.parquet`, `.csv`, `.json` and `.md`.

    Args:
        table: the table.
        location: path or address of the file.
        kind: a name in `schema.FORMATS`.
        origin: what `ownership.describe_origin` returned.

    Raises:
        OutputError: the file cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    suffix = suffix_of(location)
    if suffix == TABLE:
        write_table(table, location, kind, origin)
    else:
        write_text({CSV: format_csv, JSON: format_json, MARKDOWN: format_markdown}[suffix](table), location, origin)


def write_text(text: str, location: str | Path, origin: str) -> None:
    """Write a text whole or not at all; Markdown and LaTeX say the origin in a comment on their first line.

    Args:
        text: the text.
        location: path or address of the file.
        origin: what `ownership.describe_origin` returned.

    Raises:
        OutputError: the file cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    comment = COMMENTS.get(suffix_of(location))
    whole = f"{comment.format(origin)}\n\n{text}" if comment else text
    write_file(whole.encode("utf-8", "backslashreplace"), location)


def write_file(data: bytes, location: str | Path) -> None:
    """Write a file whole or not at all; a missing local folder is created.

    Raises:
        OutputError: the file cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    if is_address(location):
        folder, name = split_address(str(location))
        ObjectStore(folder).put(name, io.BytesIO(data))
        return
    path = Path(location).absolute()
    make_folder(path.parent)
    with replacing(path) as aside:
        aside.write_bytes(data)
