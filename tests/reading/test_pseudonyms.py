"""Identifiers become keyed hashes; the key comes from a file, the environment or chance."""

from pathlib import Path

import pytest

from brainscale.errors import UsageError
from brainscale.reading.pseudonyms import KEY_VARIABLE, folder_key, key_fingerprint, pseudonym, read_key

KEY = b"k" * 16


def test_hashes_match_under_the_same_key_only() -> None:
    assert pseudonym("A7", KEY) == pseudonym("A7", KEY) != pseudonym("A8", KEY)
    assert pseudonym("A7", KEY) != pseudonym("A7", b"l" * 16)
    assert pseudonym(None, KEY) is pseudonym("", KEY) is None
    assert key_fingerprint(KEY) == key_fingerprint(KEY) != key_fingerprint(b"l" * 16)


def test_the_key_comes_from_a_file_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv(KEY_VARIABLE, "a key of the environment's own")
    assert (read_key(str(tmp_path / "key")).secret, read_key(str(tmp_path / "key")).random) == (KEY, False)
    assert read_key(None).secret == b"a key of the environment's own"
    monkeypatch.delenv(KEY_VARIABLE)
    assert read_key(None).random
    assert read_key(None).secret != read_key(None).secret


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"1234", "has 4 bytes; it needs 16 or more"), (b"\n", "holds no patient key"), (None, "cannot be read from")],
)
def test_a_key_that_is_short_or_missing_is_refused(tmp_path: Path, content: bytes | None, error: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=error):
        read_key(str(tmp_path / "key"))


def test_a_random_key_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    secret = folder_key(tmp_path / ".key", None)
    assert folder_key(tmp_path / ".key", None) == secret
    assert (tmp_path / ".key").stat().st_mode & 0o777 == 0o600
