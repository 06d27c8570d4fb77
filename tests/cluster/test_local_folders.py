"""Folders of a local Ray, and its token, wherever TMPDIR and HOME are."""

import os
import stat
from pathlib import Path

import pytest

from brainscale.cluster import local_folders
from brainscale.cluster.local_folders import SOCKET, SOCKET_NBYTES, ensure_home, ensure_private_token, open_folders
from brainscale.errors import ClusterError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # restored at the end, whatever the code under test sets
        monkeypatch.delenv(name)


def test_a_short_folder_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")  # noqa: S108
    with open_folders() as folders:
        assert (folders.temporary, folders.spill) == (None, None)


def test_a_long_folder_keeps_what_does_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("t" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with open_folders() as folders:
        assert folders.temporary is not None
        assert folders.spill is not None
        assert len(os.fsencode(Path(folders.temporary, SOCKET))) <= SOCKET_NBYTES
        private = Path(folders.temporary).parent
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert Path(folders.spill).parent == long
        Path(folders.temporary, "logs").mkdir(parents=True)
    assert not private.exists()
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("given", ["/no/such", "relative"])
def test_a_folder_that_cannot_be_used_is_replaced(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TMPDIR", given)
    with open_folders() as folders:
        assert folders.temporary is not None
        assert folders.spill is None


def test_no_folder_is_one_line_with_the_longest_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("t" * 60)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", "/no/such")
    monkeypatch.setattr(local_folders, "SHORT_FOLDERS", (str(long), "/neither"))
    with (
        pytest.raises(ClusterError, match=r"a path of at most 39 bytes.*: set RAY_TMPDIR to such a folder"),
        open_folders(),
    ):
        pass
    assert list(long.iterdir()) == []
    assert len(f"{'f' * 39}/ray/{SOCKET}") == SOCKET_NBYTES


def test_a_home_that_keeps_no_file_leaves_the_token_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    ensure_private_token()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    ensure_private_token()
    assert os.environ["RAY_AUTH_TOKEN"] == token


def test_a_token_is_made_once_and_for_its_owner_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_private_token()
    file = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text()
    ensure_private_token()
    assert file.read_text() == token
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_only_who_has_no_home_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ["HOME"]
    ensure_home()
    assert os.environ["HOME"] == before

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("HOME", before)
    monkeypatch.setattr(Path, "home", unknown)
    ensure_home()
    assert os.environ["HOME"] == "/"
