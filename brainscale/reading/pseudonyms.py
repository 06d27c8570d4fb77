"""Keyed hashes that stand for patients and series: tables hold these, never an identifier."""

import hashlib
import hmac

from brainscale.reading.sample_ids import split_id


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
