"""The key of the hashes that stand for patients and series: tables hold these, never an identifier."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from brainscale.errors import OutputError, UsageError

KEY_VARIABLE = "BRAINSCALE_PATIENT_KEY"
SHORTEST_KEY = 16  # bytes: a shorter one can be guessed, and with it every patient number


@dataclass(frozen=True, kw_only=True)
class PatientKey:
    """The key of the hashes that stand for patients, and whether another run would use it too."""

    secret: bytes
    random: bool


def read_key(file: str | None) -> PatientKey:
    """The key in a file, in the environment, or a random one.

    Raises:
        UsageError: the file cannot be read, or the key is short.
    """
    try:
        given = Path(file).read_bytes().strip() if file else os.environ.get(KEY_VARIABLE, "").encode()
    except OSError as error:
        raise UsageError(f"the key cannot be read from {file}: {error.strerror}") from None
    if given and len(given) < SHORTEST_KEY:
        raise UsageError(
            f"the patient key has {len(given)} bytes: give it {SHORTEST_KEY} or more, such as `openssl rand -hex 32`"
        )
    if file and not given:
        raise UsageError(f"{file} holds no key: fill it, for example with `openssl rand -hex 32`")
    return PatientKey(secret=given or secrets.token_bytes(32), random=not given)


def folder_key(place: Path, file: str | None) -> bytes:
    """The key given, else a random one that stays in a folder, so that a rerun hashes as the first run did.

    Args:
        place: where a random one is kept, readable by its owner alone.
        file: as for `read_key`.

    Raises:
        UsageError: the file cannot be read, or the key is short.
        OutputError: the place cannot be read or written.
    """
    key = read_key(file)
    if not key.random:
        return key.secret
    try:
        if not place.exists():
            aside = place.with_name(f"{place.name}.{secrets.token_hex(4)}.tmp")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(key.secret.hex().encode())
            aside.replace(place)
        return bytes.fromhex(place.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{place} cannot be used ({error}): fix that, or choose a new --out") from None


def pseudonym(identifier: str | None, key: bytes) -> str | None:
    """A hash that says whether two identifiers are one, and not which: HMAC-SHA256, 128 bits."""
    return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:32] if identifier else None


def key_fingerprint(secret: bytes) -> str:
    """Says whether two keys are one, and not which."""
    return hashlib.sha256(secret).hexdigest()[:16]
