"""What a scores folder says of itself: whether it is complete, and which parts count."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from brainscale.errors import FormatError, OutputError
from brainscale.schema import FORMATS
from brainscale.scoring.listing import LISTING
from brainscale.scoring.parts import PART_FILES, parse_part
from brainscale.scoring.result import Scores
from brainscale.storage.folder import Folder
from brainscale.storage.local import SUCCESS, parse_success
from brainscale.version import __version__

NAMED_PARTS = 1000
"""Parts that `_SUCCESS.json` names itself; a sorted list beside the listing names more of them."""
OWN_FILES = (PART_FILES, LISTING)


def open_scores_folder(out: str) -> Folder:
    """Return a folder to write scores to, created if it does not exist.

    Raises:
        OutputError: the folder cannot be written, or it holds other files only.
        FormatError: another version of brainscale wrote it.
    """
    folder = Folder(out)
    folder.create()
    require_scores(folder)
    return folder


def require_scores(folder: Folder) -> None:
    """Check that a folder is empty or holds scores of this version, if it is there.

    Raises:
        OutputError: it holds other files only.
        FormatError: another version of brainscale wrote it.
    """
    names = [name for name in folder.list_names() if not name.endswith(".tmp")]
    if names and not any(fnmatchcase(name, own) for name in names for own in OWN_FILES):
        raise OutputError(f"{folder} holds other files and no scores: choose a new folder")
    if foreign := next((name for name in names if fnmatchcase(name, PART_FILES) and not parse_part(name)), None):
        raise FormatError(f"{folder} holds {foreign}, which another version of brainscale wrote: choose a new --out")


def read_finished(folder: Folder) -> dict[str, Any] | None:
    """Return what `_SUCCESS.json` says; None for a folder that is not complete.

    Raises:
        OutputError: it is damaged.
        FormatError: another version of brainscale wrote it.
    """
    data = folder.read(SUCCESS)
    return None if data is None else parse_success(data, folder)


def parts_that_count(folder: Folder, finished: Mapping[str, Any]) -> list[str]:
    """Return the names of the parts of a complete folder.

    Raises:
        OutputError: the list of parts is missing.
    """
    if "parts" in finished:
        return list(finished["parts"])
    data = folder.read(finished["parts_list"])
    if data is None:
        raise OutputError(f"{folder}/{finished['parts_list']} is missing: remove {SUCCESS} and run the command again")
    return data.decode().split()


def write_finished(folder: Folder, scores: Scores) -> None:
    """Mark a folder as complete: the last write of a job, which replaces what was there."""
    facts: dict[str, Any] = {"kind": "scores", **scores.facts(), "brainscale": __version__, "format": FORMATS["folder"]}
    if len(scores.parts) <= NAMED_PARTS:
        facts["parts"] = list(scores.parts)
    else:
        names = "\n".join(scores.parts).encode()
        facts["parts_list"] = f"{LISTING}/parts-{hashlib.sha256(names).hexdigest()[:16]}.txt"
        folder.write(facts["parts_list"], names)
    folder.write(SUCCESS, (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())


def remove_other_parts(folder: Folder, parts: Sequence[str], there: Sequence[str]) -> None:
    """Delete the parts that no longer count: of files that have changed or were dropped.

    Args:
        folder: the scores folder.
        parts: names of those that count.
        there: names of all that were there when nobody had begun another listing.
    """
    kept = set(parts)
    for name in there:
        if name not in kept and parse_part(name):
            folder.remove(name)
