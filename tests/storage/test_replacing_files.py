"""Files of a folder are replaced by others together: all or none, whatever stops it, and what is not theirs stays."""

from pathlib import Path

import pytest

from brainscale.errors import OutputError
from brainscale.storage.local import SUCCESS, replacing_files

NAMES = ("a", "b", "plots")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete folder, with a file of the user's own."""
    for name in ("a", "b", SUCCESS, "notes"):
        (tmp_path / name).write_text("old")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "p").write_text("old")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_new(aside: Path) -> None:
    for name in ("b", SUCCESS):
        (aside / name).write_text("new")


def test_the_new_ones_are_there_and_no_old_one(folder: Path) -> None:
    with replacing_files(folder, NAMES) as aside:
        write_new(aside)
        assert contents(folder)[SUCCESS] == "old"
    assert contents(folder) == {"b": "new", SUCCESS: "new", "notes": "old"}


@pytest.mark.parametrize("renames", range(6))
@pytest.mark.parametrize("error", [KeyboardInterrupt, PermissionError(13, "Permission denied")])
def test_all_old_ones_are_back_when_one_cannot_be_moved(
    folder: Path, monkeypatch: pytest.MonkeyPatch, renames: int, error: BaseException | type[BaseException]
) -> None:
    """Of 4 files that leave and 2 that come, so many are moved before."""
    before, rename, done = contents(folder), Path.rename, 0

    def failing(path: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done == renames + 1:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((KeyboardInterrupt, OutputError)), replacing_files(folder, NAMES) as aside:
        write_new(aside)
    assert contents(folder) == before
    assert {path.name for path in folder.iterdir()} == {"a", "b", "plots", SUCCESS, "notes"}


def test_an_error_names_the_folder(folder: Path) -> None:
    with pytest.raises(OutputError) as caught, replacing_files(folder, NAMES) as aside:
        raise OutputError(f"{aside}/metrics.parquet cannot be written")
    assert str(caught.value) == f"{folder}/metrics.parquet cannot be written"
