"""Hashes of JSON values and of files."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def fingerprint(facts: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_of_lists(lists: Iterable[Iterable[list[Any]]]) -> str:
    """Return `fingerprint` of a list of long lists, each given in pieces: no more than one piece is in memory as JSON.

    Args:
        lists: the pieces of each list, in order.
    """
    digest = hashlib.sha256(b"[")
    for number, pieces in enumerate(lists):
        texts = (json.dumps(piece, sort_keys=True, separators=(",", ":"))[1:-1] for piece in pieces if piece)
        digest.update(b",[" if number else b"[")
        for position, text in enumerate(texts):
            digest.update(f",{text}".encode() if position else text.encode())
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
