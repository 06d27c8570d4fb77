"""Where a local Ray keeps its files and its token, whatever HOME and TMPDIR are."""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from brainscale.errors import ClusterError

SOCKET_NBYTES = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a socket at most, a limit of the system."""
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket below Ray's folder."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "$XDG_RUNTIME_DIR", "/dev/shm")  # noqa: S108 (a private folder is made inside)
"""Folders with short paths, the best first: the last two are in memory."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


@dataclass(frozen=True, kw_only=True)
class LocalFolders:
    """Folders of a local Ray; None for what Ray would choose.

    Attributes:
        temporary: for sockets and logs.
        spill: for what does not fit in memory.
    """

    temporary: str | None = None
    spill: str | None = None


@contextmanager
def open_folders() -> Iterator[LocalFolders]:
    """Yield folders that Ray can use, and remove those that were made for it at the end.

    Ray's own choice, below TMPDIR, stands if it can be written and is short enough for a socket. Otherwise, sockets and
    logs are in a private folder with a short path, and TMPDIR still takes what does not fit in memory, if it can.

    Raises:
        ClusterError: no folder is short enough and can be written.
    """
    given = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 (as Ray has it)
    default = Path(given, "ray")
    if _holds_sockets(default) and _can_write(default if os.path.lexists(default) else Path(given)):
        yield LocalFolders()
        return
    private = _make_short_folder(given)
    spill = _make_folder(given) if Path(given).is_absolute() else None
    try:
        # Ray opens its own folder to everybody, so it lies in one that is open to this user only
        yield LocalFolders(temporary=str(private / "r"), spill=None if spill is None else str(spill))
    finally:
        for folder in filter(None, (private, spill)):
            shutil.rmtree(folder, ignore_errors=True)


def _make_short_folder(given: str) -> Path:
    for parent in map(os.path.expandvars, SHORT_FOLDERS):
        folder = _make_folder(parent)
        if folder is not None and _holds_sockets(folder / "r"):
            return folder
        if folder is not None:
            folder.rmdir()
    longest = SOCKET_NBYTES - len(SOCKET) - len("/ray/")
    raise ClusterError(
        f"Ray needs a folder that can be written, with a path of at most {longest} bytes, and neither {given} nor "
        f"{', '.join(SHORT_FOLDERS)} is one: set RAY_TMPDIR to such a folder"
    )


def _make_folder(parent: str) -> Path | None:
    """Make a private folder with a new name; None if that is not possible."""
    with suppress(OSError):
        return Path(tempfile.mkdtemp(prefix="brainscale-", dir=parent))
    return None


def _holds_sockets(folder: Path) -> bool:
    return folder.is_absolute() and len(os.fsencode(folder / SOCKET)) <= SOCKET_NBYTES


def _can_write(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def ensure_home() -> None:
    """Set HOME if this user has none and is unknown to the system, as in a container: parts of Ray ask for it.

    The root folder stands for none, as it does in containers.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.sep


def ensure_private_token() -> None:
    """Create Ray's token for its owner only, since Ray would create a file that everybody can read.

    Where the home folder keeps no file, the token is in the environment of this process and of its Ray.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), os.fdopen(os.open(token, _CREATE, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32))
        token.chmod(0o600)
    if not _is_token(token):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _is_token(path: Path) -> bool:
    """Return whether a file holds a token: a full disk leaves an empty one."""
    with suppress(OSError, UnicodeDecodeError):
        return bool(path.read_text(encoding="ascii").strip())
    return False
