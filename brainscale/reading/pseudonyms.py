"""Keyed hashes that stand for patients and series: tables hold these, never an identifier."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from brainscale.errors import OutputError, UsageError
from brainscale.reading.sample_ids import split_id

KEY_VARIABLE = "BRAINSCALE_PATIENT_KEY"
SHORTEST_KEY = 16  # bytes: a shorter key can be guessed, and with it every patient number
MAKE_KEY = "Make one with `openssl rand -hex 32`."


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
        secret = Path(file).read_bytes().strip() if file else os.environ.get(KEY_VARIABLE, "").encode()
    except OSError as error:
        raise UsageError(f"The patient key cannot be read from {file}: {error.strerror}.") from None
    if file and not secret:
        raise UsageError(f"{file} holds no patient key. {MAKE_KEY}")
    if secret and len(secret) < SHORTEST_KEY:
        raise UsageError(f"The patient key has {len(secret)} bytes; it needs {SHORTEST_KEY} or more. {MAKE_KEY}")
    return PatientKey(secret=secret or secrets.token_bytes(32), random=not secret)


def folder_key(path: Path, file: str | None) -> bytes:
    """Read the key as `read_key` does, but keep a random one in a file, so that a rerun hashes alike.

    Args:
        path: file that keeps a random key, readable by its owner alone.
        file: as for `read_key`.

    Raises:
        UsageError: the key file cannot be read, or the key is too short.
        OutputError: the path cannot be read or written.
    """
    key = read_key(file)
    if not key.random:
        return key.secret
    try:
        if not path.exists():
            aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(key.secret.hex().encode())
            aside.replace(path)
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be used ({error}). Fix that, or choose a new --out.") from None


def pseudonym(identifier: str | None, key: bytes) -> str | None:
    """Return a hash that tells whether two identifiers are the same, but not which: HMAC-SHA256, 128 bits."""
    return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:32] if identifier else None


def hide_id(sample_id: str, key: bytes) -> str:
    """Return a sample id with hashes in place of the names of its file and member; numbers of frames stay."""
    file_id, member, frame = split_id(sample_id)
    names = [pseudonym(file_id, key), *([pseudonym(member, key)] if member else [])]
    return "!".join(map(str, names)) + ("" if frame is None else f"#{frame}")


def key_fingerprint(secret: bytes) -> str:
    """Return a hash that tells whether two keys are the same, but not which."""
    return hashlib.sha256(secret).hexdigest()[:16]
