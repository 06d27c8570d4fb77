"""What is kept in the user's cache is read again, or made again; it never stops a command."""

import subprocess
import sys
from pathlib import Path

import pytest

from brainscale.storage.user_cache import keep_cached, read_cached

FACTS = {"network": "brainmrnet", "size": 64}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "brainscale"


def test_contents_are_kept_by_their_facts(cache: Path) -> None:
    assert read_cached("graphs", FACTS) is None
    keep_cached("graphs", FACTS, b"first")
    keep_cached("graphs", FACTS, b"second")
    assert read_cached("graphs", dict(reversed(FACTS.items()))) == b"second"
    assert read_cached("graphs", {**FACTS, "size": 96}) is None
    assert read_cached("choices", FACTS) is None
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize("damage", [b"", b"first", b"\0" * 100])
def test_damaged_contents_are_none(cache: Path, damage: bytes) -> None:
    keep_cached("graphs", FACTS, b"first")
    (kept,) = (cache / "graphs").iterdir()
    kept.write_bytes(damage)
    assert read_cached("graphs", FACTS) is None
    keep_cached("graphs", FACTS, b"second")
    assert read_cached("graphs", FACTS) == b"second"


def test_without_a_folder_nothing_is_kept(cache: Path) -> None:
    cache.write_text("no folder")
    keep_cached("graphs", FACTS, b"first")
    assert read_cached("graphs", FACTS) is None


def test_a_file_that_cannot_be_replaced_stays(cache: Path) -> None:
    keep_cached("graphs", FACTS, b"first")
    (kept,) = (cache / "graphs").iterdir()
    kept.unlink()
    kept.mkdir()
    keep_cached("graphs", FACTS, b"second")
    assert read_cached("graphs", FACTS) is None
    assert kept.is_dir()


def test_a_file_that_is_too_large_is_not_read(cache: Path) -> None:
    keep_cached("graphs", FACTS, b"first")
    (kept,) = (cache / "graphs").iterdir()
    with kept.open("r+b") as file:
        file.truncate(2**40)  # has no bytes on the disk
    assert read_cached("graphs", FACTS) is None


def test_what_a_killed_process_left_is_removed(cache: Path) -> None:
    keep_cached("graphs", FACTS, b"first")
    killed = (
        "import os; from brainscale.storage import user_cache;"
        "os.fsync = lambda file: os.kill(os.getpid(), 9);"
        f"user_cache.keep_cached('graphs', {FACTS}, b'second')"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert len(list((cache / "graphs").iterdir())) == 2
    keep_cached("graphs", FACTS, b"third")
    assert len(list((cache / "graphs").iterdir())) == 1
    assert read_cached("graphs", FACTS) == b"third"


def test_nobody_without_a_home_keeps_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", no_home)
    keep_cached("graphs", FACTS, b"first")
    assert read_cached("graphs", FACTS) is None
