"""The user's cache: small files that spare work, and that anybody may delete at any time."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from brainscale.errors import OutputError
from brainscale.hashing import fingerprint
from brainscale.storage.local import remove_abandoned, replacing

DIGEST_NBYTES = hashlib.sha256().digest_size
MAX_NBYTES = 2**26
"""Largest file that is read; one of ours has less than a megabyte."""


def read_cached(kind: str, facts: Mapping[str, Any]) -> bytes | None:
    """Return the contents that were kept for some facts; None if there are none, or if they are damaged.

    Args:
        kind: what the contents are, the name of a folder.
        facts: all that decides the contents, as JSON values.
    """
    with suppress(OSError, RuntimeError):
        path = _file(kind, facts)
        if not path.is_file() or path.stat().st_size > MAX_NBYTES:
            return None
        kept = path.read_bytes()
        digest, contents = kept[:DIGEST_NBYTES], kept[DIGEST_NBYTES:]
        if hashlib.sha256(contents).digest() == digest:
            return contents
    return None


def keep_cached(kind: str, facts: Mapping[str, Any], contents: bytes) -> None:
    """Keep contents for some facts; where they cannot be kept, the work is done again next time.

    Args:
        kind: what the contents are, the name of a folder.
        facts: all that decides the contents, as JSON values.
        contents: the bytes.
    """
    with suppress(OSError, RuntimeError, OutputError):
        path = _file(kind, facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(contents).digest() + contents)


def _file(kind: str, facts: Mapping[str, Any]) -> Path:
    """Return the file of some facts.

    Raises:
        RuntimeError: this user has no home folder.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(given if Path(given).is_absolute() else "~/.cache").expanduser()
    return folder / "brainscale" / kind / fingerprint(facts)[:32]
