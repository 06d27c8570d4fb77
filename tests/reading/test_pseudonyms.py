"""Identifiers become keyed hashes; the key comes from a file, the environment or chance."""

from pathlib import Path

import pytest

from brainscale.errors import OutputError, UsageError
from brainscale.reading.keys import KEY_VARIABLE, find_key, keep_new_key, kept_key_file, read_key
from brainscale.reading.pseudonyms import hide_id, key_fingerprint, pseudonym

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


def test_a_random_key_is_kept_apart_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    out = str(tmp_path / "scores")
    assert find_key(out, None) is None
    secret = keep_new_key(out)
    assert secret == keep_new_key(out) == find_key(out, None) == find_key(f"{out}/", None)
    assert secret == read_key(str(kept_key_file(out))).secret
    assert keep_new_key("s3://bucket/scores?region=a") != secret
    assert find_key("s3://bucket/scores/?region=b", None) == find_key("s3://bucket/scores", None) is not None
    path = kept_key_file(out)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert path.is_relative_to(tmp_path / "state" / "brainscale")
    assert "scores" not in str(path.relative_to(tmp_path))
    assert [p.name for p in path.parent.iterdir()].count(path.name) == 1
    (tmp_path / "key").write_bytes(KEY)
    assert find_key(out, str(tmp_path / "key")) == KEY
    for text in ("no key", ""):
        path.write_text(text)
        with pytest.raises(OutputError, match=r"cannot be used \(it holds no key\). Pass --patient-key FILE, or set "):
            find_key(out, None)


def test_a_user_without_a_place_for_keys_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot be kept in .* Pass --patient-key FILE, or set BRAINSCALE_PATIENT"):
        keep_new_key(str(tmp_path / "scores"))
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(OutputError, match="There is no home folder to keep the key of hashes in. Pass --patient-key"):
        find_key(str(tmp_path / "scores"), None)


def test_a_hidden_id_keeps_the_number_of_its_frame() -> None:
    whole, member, frame = (hide_id(i, KEY) for i in ("a/b.zip", "a/b.zip!c/d.dcm", "a/b.zip!c/d.dcm#7"))
    assert (member, frame) == (f"{whole}!{pseudonym('c/d.dcm', KEY)}", f"{member}#7")
    assert whole == pseudonym("a/b.zip", KEY)
