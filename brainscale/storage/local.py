"""Output folders: complete when, and only when, `_SUCCESS.json` is there."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brainscale.errors import RERUN, FormatError, OutputError
from brainscale.schema import FORMATS
from brainscale.version import __version__

SUCCESS = "_SUCCESS.json"
"""A folder is complete when, and only when, it holds this file; it is written last."""


def write_success(folder: Path, facts: Mapping[str, Any]) -> None:
    """Say that a folder is complete; the last thing written to it."""
    write_json(folder / SUCCESS, {**facts, "brainscale": __version__, "format": FORMATS["folder"]})


def read_success(folder: Path) -> dict[str, Any] | None:
    """What `_SUCCESS.json` says, or None for a folder that is not complete."""
    try:
        facts: dict[str, Any] = json.loads((folder / SUCCESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{folder / SUCCESS} cannot be read ({error}): remove the folder or choose another") from None
    if facts.get("format") != FORMATS["folder"]:
        raise FormatError(
            f"{folder} was written by brainscale {facts.get('brainscale', 'of an unknown version')}, and this version "
            "cannot read it: choose a new folder, or use that version"
        )
    return facts


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON file that appears whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to; what is written replaces `path` when the with-block ends without an error.

    Whoever reads `path` sees the file before or the file after, also when this process or the machine dies.

    Raises:
        OutputError: the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")  # no other node's or process's
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error}): fix that, {RERUN}") from error
    finally:
        aside.unlink(missing_ok=True)


def output_folder(out: str | Path) -> Path:
    """An absolute, existing folder to write to.

    Raises:
        OutputError: an address, a file, or a place that cannot be written.
    """
    if "://" in str(out):
        raise OutputError(f"{out} is an address, and this goes to a local or mounted folder: give a path")
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{out} is a file: name a folder") from None
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{out} cannot be written: permission denied")
    return folder


def refuse_other_files(folder: Path, known: set[str], what: str) -> None:
    """Refuse a folder that holds something, but nothing that says it is ours.

    Raises:
        OutputError: files are there and none has one of the known names.
    """
    names = {p.name for p in folder.iterdir() if not p.name.endswith(".tmp")}
    if names and not names & known:
        raise OutputError(f"{folder} holds other files and no {what}: choose a new folder")
