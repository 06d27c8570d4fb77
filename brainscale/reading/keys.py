"""The key of the hashes that stand for patients and series: given in a file or the environment, or drawn and kept."""

import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brainscale.errors import OutputError, UsageError
from brainscale.storage.remote import split_options

KEY_VARIABLE = "BRAINSCALE_PATIENT_KEY"
SHORTEST_KEY = 16  # bytes: a shorter key can be guessed, and with it every patient number
MAKE_KEY = "Make one with `openssl rand -hex 32`."
GIVE_KEY = f"Pass --patient-key FILE, or set {KEY_VARIABLE}"


@dataclass(frozen=True, kw_only=True)
class PatientKey:
    """The key of the hashes that stand for patients and series.

    Attributes:
        secret: the key.
        random: whether it was drawn for this run alone, so that no other run's hashes can match.
    """

    secret: bytes
    random: bool


def read_key(file: str | None) -> PatientKey:
    """Read the key from a file or the environment, or draw a random one.

    Raises:
        UsageError: the file cannot be read, or the key is too short.
    """
    try:
        secret = Path(file).read_bytes().strip() if file else os.environ.get(KEY_VARIABLE, "").strip().encode()
    except OSError as error:
        raise UsageError(f"The patient key cannot be read from {file}: {error.strerror}.") from None
    if file and not secret:
        raise UsageError(f"{file} holds no patient key. {MAKE_KEY}")
    if secret and len(secret) < SHORTEST_KEY:
        raise UsageError(f"The patient key has {len(secret)} bytes; it needs {SHORTEST_KEY} or more. {MAKE_KEY}")
    return PatientKey(secret=secret or secrets.token_bytes(32), random=not secret)


def kept_key_file(out: str) -> Path:
    """Return the file that keeps the random key of an output folder, apart from it: folders are handed on, keys not.

    Args:
        out: absolute path or address of the folder; its hash names the file.

    Raises:
        OutputError: this user has no folder for it.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    state = Path(given if Path(given).is_absolute() else "~/.local/state")
    try:
        state = state.expanduser()
    except RuntimeError:
        text = f"There is no home folder to keep the key of hashes in. {GIVE_KEY} or XDG_STATE_HOME to a folder."
        raise OutputError(text) from None
    name = hashlib.sha256(split_options(out)[0].rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return state / "brainscale" / "keys" / f"{name}.key"


def find_key(out: str, file: str | None) -> bytes | None:
    """Read the key as `read_key` does, or else the random key that is kept for an output folder; None without one.

    Args:
        out: absolute path or address of the folder.
        file: as for `read_key`.

    Raises:
        UsageError: the key file cannot be read, or the key is too short.
        OutputError: the kept key cannot be read.
    """
    key = read_key(file)
    if not key.random:
        return key.secret
    path = kept_key_file(out)
    try:
        return _read_kept(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"The key of hashes in {path} cannot be used ({_reason(error)}). {GIVE_KEY}.") from None


def keep_new_key(out: str) -> bytes:
    """Draw a random key and keep it for an output folder, readable by its owner alone; return the key.

    Raises:
        OutputError: the key cannot be written.
    """
    path = kept_key_file(out)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = path.with_name(f".{secrets.token_hex(8)}.tmp")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_bytes(32).hex())
        with suppress(FileExistsError):  # of two jobs that begin at the same time, both use the first one's key
            os.link(aside, path)
        aside.unlink()
        return _read_kept(path)
    except OSError as error:
        text = f"The key of hashes cannot be kept in {path} ({_reason(error)}). {GIVE_KEY}, or XDG_STATE_HOME."
        raise OutputError(text) from None


def _read_kept(path: Path) -> bytes:
    """Return the text of the file: the key that `read_key` reads from it, where the file is given as one."""
    text = path.read_text(encoding="ascii").strip()
    if not bytes.fromhex(text):
        raise ValueError("empty")
    return text.encode()


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or "it holds no key"
