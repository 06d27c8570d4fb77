"""How a sample is named: its path below the source, `!member` in an archive, `#frame` in a file of several.

`!` and `#` in a name of a file or member are written %21 and %23, so that two samples never share an id.
"""

import re
from collections.abc import Sequence

from brainscale.seeds import derive


def readable(name: str) -> str:
    r"""A file system's or an archive's name as text that every table can hold: odd bytes are shown as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def escape(name: str) -> str:
    """A readable name that may stand in an id."""
    return re.sub(r"%(?=2[135])", "%25", name).replace("!", "%21").replace("#", "%23")


def sample_id(unit: str, path: Sequence[str] = (), frame: int | None = None) -> str:
    """The id of a unit's member and frame.

    Args:
        unit: the file's id.
        path: names of members from the outermost archive inwards.
        frame: number in a file of several.
    """
    return "!".join([unit, *map(escape, path)]) + ("" if frame is None else f"#{frame}")


def file_of(sample: str) -> str:
    """The id of the file that holds a sample."""
    return sample.partition("#")[0].partition("!")[0]


def split_id(sample: str) -> tuple[str, str | None, int | None]:
    """An id's unit, members and frame."""
    whole, _, frame = sample.partition("#")
    unit, inside, member = whole.partition("!")
    return unit, member if inside else None, int(frame) if frame else None


def unique(path: tuple[str, ...], seen: set[int]) -> str:
    """The last name of a path, with `~2`, `~3` … if the path came before.

    Args:
        path: names of members.
        seen: hashes of the paths that came; this one is added.
    """
    name, number = path[-1], 1
    while (mark := derive(0, *path[:-1], name)) in seen:
        number += 1
        name = f"{path[-1]}~{number}"
    seen.add(mark)
    return name
