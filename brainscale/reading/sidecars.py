"""Files that an operating system leaves beside others, which are no images and no damage."""

import re

APPLE_DOUBLE = (b"\x00\x05\x16\x07", b"\x00\x05\x16\x00")
"""First bytes of the files `._NAME` that macOS writes beside NAME on other file systems and in archives."""
_NAMES = frozenset({".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_FOLDERS = frozenset({"__macosx", ".spotlight-v100", ".trashes", ".fseventsd", "@eadir"})


def is_sidecar(sample_id: str, data: bytes | None) -> bool:
    """Return whether a file is a known sidecar of macOS, Windows or a network drive.

    Args:
        sample_id: id of the file or member.
        data: its bytes; None where they cannot be read.
    """
    *folders, name = re.split("[/!]", sample_id.casefold())
    if re.sub(r"~\d+$", "", name) in _NAMES or not _FOLDERS.isdisjoint(folders):
        return True
    return name.startswith("._") and data is not None and data.startswith(APPLE_DOUBLE)
