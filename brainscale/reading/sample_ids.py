"""Sample ids: the path below the source, `!member` in an archive, `#frame` in a file of several frames.

`!` and `#` in the name of a file or member are written %21 and %23, so that two samples never share an id.
"""

import re
from collections.abc import Sequence

from brainscale.seeds import derive

IN_FILE = r"(?s)[#!].*"
"""What a sample's id adds to its file's, as a regular expression for whole columns; `file_of` cuts the same."""
_ARCHIVE_SUFFIXES = re.compile(r"(\.(tar|zip|tgz|tbz2?|txz|tzst|gz|bz2|xz|zst))+$", re.IGNORECASE)
_NUMBER = re.compile(r"~\d+$")  # of a name that came before


def as_text(name: str) -> str:
    r"""Return a file system's or an archive's name as text that every table can hold: odd bytes become \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def escape(name: str) -> str:
    """Escape the characters of a name that have a meaning in an id."""
    return re.sub(r"%(?=2[135])", "%25", name).replace("!", "%21").replace("#", "%23")


def join_id(file_id: str, path: Sequence[str] = (), frame: int | None = None) -> str:
    """Return the id of a sample.

    Args:
        file_id: id of the file.
        path: names of members from the outermost archive inwards.
        frame: number in a file of several frames.
    """
    return "!".join([file_id, *map(escape, path)]) + ("" if frame is None else f"#{frame}")


def split_id(sample_id: str) -> tuple[str, str | None, int | None]:
    """Return the file, the member and the frame of a sample's id."""
    path, _, frame = sample_id.partition("#")
    file_id, mark, member = path.partition("!")
    return file_id, member if mark else None, int(frame) if frame else None


def file_of(sample_id: str) -> str:
    """Return the id of the file that holds a sample."""
    return sample_id.partition("#")[0].partition("!")[0]


def split_folders(sample_id: str) -> tuple[list[str], str]:
    """Return the names of the folders and archives above a sample, outermost first, and its own name.

    Archives lose the suffixes of archives (`No.5.zip` becomes `No.5`), and only archives; names that came before lose
    their number (`yes~2`).
    """
    *archives, innermost = sample_id.partition("#")[0].split("!")
    folders = []
    for path in archives:
        *above, archive = path.split("/")
        folders += [*above, _ARCHIVE_SUFFIXES.sub("", _NUMBER.sub("", archive))]
    *above, name = innermost.split("/")
    return [_NUMBER.sub("", folder) for folder in [*folders, *above]], name


def unique_name(path: tuple[str, ...], path_hashes: set[int]) -> str:
    """Return the last name of a path, with `~2`, `~3` … where the path came before.

    Args:
        path: names of members.
        path_hashes: hashes of the paths that came before; this path's is added.
    """
    name, number = path[-1], 1
    while (path_hash := derive(0, *path[:-1], name)) in path_hashes:
        number += 1
        name = f"{path[-1]}~{number}"
    path_hashes.add(path_hash)
    return name
