"""Whether a file is still the one that was listed."""

import os
from urllib.parse import unquote_to_bytes

from brainscale.errors import StorageError
from brainscale.reading.listing import SECOND
from brainscale.reading.sources import SourceFile
from brainscale.storage.remote import filesystem_of, is_address, retrying


def has_changed(file: SourceFile) -> bool:
    """Return whether a file has another size or time than when it was listed.

    A file that is gone, or whose store does not answer, has not changed: reading it says what is wrong. Of files
    that a manifest names, nobody knows the time; of an archive that is read in portions, the time alone counts.
    """
    if file.modified is None:
        return False
    try:
        nbytes, modified = _state(file.uri)
    except (OSError, StorageError):
        return False
    return modified != file.modified or (file.members is None and nbytes != file.nbytes)


def _state(uri: str) -> tuple[int | None, int | None]:
    if is_address(uri):
        filesystem, path = filesystem_of(uri)
        info = retrying(lambda: filesystem.get_file_info(path), uri)
        return info.size, info.mtime_ns // SECOND * SECOND
    name = unquote_to_bytes(uri.removeprefix("file://")) if uri.startswith("file://") else os.fsencode(uri)
    status = os.stat(name)  # noqa: PTH116 (a path of bytes)
    return status.st_size, status.st_mtime_ns
