"""Output folders, local or in an object store: a folder in a store is worked on as a local copy and uploaded.

`_SUCCESS.json` is uploaded last. When a folder becomes incomplete again, it is the first file to be deleted.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from pyarrow import fs as pafs

from brainscale.errors import BrainscaleError, OutputError
from brainscale.storage.local import (
    SUCCESS,
    make_folder,
    naming_folder,
    read_success,
    removing_if_empty,
    replacing,
    require_writable,
)
from brainscale.storage.remote import ObjectStore, filesystem_of, is_address, join_address, split_address

SHARED_FILES = (SUCCESS, "manifest.parquet")
"""Names that several commands write."""


@dataclass
class Workspace:
    """An output folder to work in: the folder itself if it is local, or a local copy of a folder in a store.

    Attributes:
        path: the local folder.
        store: the folder in the store; None for a local folder.
    """

    path: Path
    store: ObjectStore | None = None
    _local_marks: dict[str, tuple[int, int]] = field(default_factory=dict)  # name → size and time at the last transfer
    _store_marks: dict[str, tuple[int, int]] = field(default_factory=dict)  # the same, of the object in the store

    def __str__(self) -> str:
        return self.store.address if self.store else str(self.path)

    def locate(self, name: str) -> str:
        """Return the path or address of a file in the folder."""
        return join_address(self.store.address, name) if self.store else str(self.path / name)

    def filesystem(self, name: str) -> tuple[pafs.FileSystem | None, str]:
        """Return a file system (None for the local one) and a path in it, for libraries that write by themselves."""
        if self.store is None:
            return None, str(self.path / name)
        filesystem, root = filesystem_of(self.store.address)
        return filesystem, f"{root}/{name}"

    def pull(self, *patterns: str, force: bool = False) -> None:
        """Download the objects that match a pattern and have changed, or all that match.

        Args:
            patterns: patterns of names.
            force: whether to download unchanged objects too.
        """
        if self.store is None:
            return
        for name, info in self.store.names().items():
            mark = (info.size, info.mtime_ns or 0)
            if not _matches(name, patterns) or (self._store_marks.get(name) == mark and not force):
                continue
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as aside, aside.open("wb") as sink:
                self.store.copy_to(name, sink)
            self._store_marks[name], self._local_marks[name] = mark, _mark(target)

    def push(self) -> None:
        """Upload new and changed files, and delete from the store what was deleted locally."""
        if self.store is None:
            return
        marks = {path.relative_to(self.path).as_posix(): _mark(path) for path in _finished_files(self.path)}
        deleted = self._local_marks.keys() - marks.keys()
        self.store.remove(sorted(deleted, key=lambda name: name != SUCCESS))  # the mark of a complete folder first
        changed = [name for name, mark in marks.items() if self._local_marks.get(name) != mark]
        for name in sorted(changed, key=lambda name: (name == SUCCESS, name)):
            with (self.path / name).open("rb") as source:
                self.store.put(name, source)
            self._local_marks[name] = marks[name]
        for name in deleted:
            del self._local_marks[name]


@contextmanager
def open_workspace(
    out: str | Path, pulled: Sequence[str], *, own_files: Sequence[str] = (), what: str = "results"
) -> Iterator[Workspace]:
    """Yield an output folder to work in; a folder in a store is uploaded when the with-block ends.

    Args:
        out: a path, created if it does not exist, or an address.
        pulled: patterns of names to download first.
        own_files: patterns of further names that the command writes.
        what: noun for messages, such as `scores`.

    Raises:
        OutputError: the folder cannot be written, or it holds other files only.
    """
    if not is_address(out):
        with removing_if_empty(out), naming_folder(out):
            folder = make_folder(out)
            _refuse_other_files(out, _names_in(folder), [*pulled, *own_files], what, _kind_of(folder))
            yield Workspace(folder)
        return
    with _copy(str(out)) as workspace:
        workspace.pull(SUCCESS, *pulled)
        names = ObjectStore(str(out)).names()
        _refuse_other_files(out, names, [*pulled, *own_files], what, _kind_of(workspace.path))
        try:
            yield workspace
        finally:
            workspace.push()


@contextmanager
def fetch(location: str | Path, *patterns: str, push: bool = False) -> Iterator[Path]:
    """Yield a folder to read: itself if it is local, or a local copy of the matching files of a folder in a store.

    Args:
        location: path or address of the folder.
        patterns: patterns of names to download.
        push: whether to upload changes when the with-block ends.
    """
    with fetch_workspace(location, *patterns) as workspace:
        try:
            yield workspace.path
        finally:
            if push:
                workspace.push()


@contextmanager
def fetch_workspace(location: str | Path, *patterns: str) -> Iterator[Workspace]:
    """Yield a folder as `fetch` does, to be pushed by whoever changes it.

    Args:
        location: path or address of the folder.
        patterns: patterns of names to download.
    """
    if not is_address(location):
        yield Workspace(Path(location))
        return
    with _copy(str(location)) as workspace:
        workspace.pull(*patterns)
        yield workspace


def is_complete(location: str | Path) -> bool:
    """Return whether a folder is complete: whether it has its `_SUCCESS.json`."""
    with fetch(location, SUCCESS) as folder:
        return read_success(folder) is not None


@contextmanager
def _copy(address: str) -> Iterator[Workspace]:
    """Yield an empty local folder for a folder in a store; errors name the address."""
    with tempfile.TemporaryDirectory(prefix="brainscale-") as scratch:
        workspace = Workspace(Path(scratch) / (split_address(address)[1] or "folder"), ObjectStore(address))
        workspace.path.mkdir()
        with _errors_name_the_address(workspace):
            yield workspace


@contextmanager
def _errors_name_the_address(workspace: Workspace) -> Iterator[None]:
    """Replace the path of the local copy by the address in the message of an error."""
    try:
        yield
    except BrainscaleError as error:
        if str(workspace.path) not in str(error):
            raise
        raise type(error)(str(error).replace(str(workspace.path), str(workspace))) from None


def require_folder(out: str | Path, own_files: Sequence[str], what: str) -> None:
    """Check an output folder without creating it; a folder in a store is checked when it is opened.

    Args:
        out: a path or an address.
        own_files: patterns of the names that the command writes.
        what: noun for messages, such as `scores`.

    Raises:
        OutputError: the folder cannot be written, or it holds other files only.
    """
    if is_address(out):
        return
    require_writable(out)
    if Path(out).is_dir():
        _refuse_other_files(out, _names_in(Path(out)), own_files, what, _kind_of(Path(out)))


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".tmp"]


def _kind_of(folder: Path) -> str | None:
    """Return what a complete folder says that it holds; None where it is not complete, or does not say."""
    try:
        return (read_success(folder) or {}).get("kind")
    except BrainscaleError:  # damaged, or another version's: who reads it judges that
        return None


def _refuse_other_files(
    out: str | Path, names: Collection[str], patterns: Sequence[str], what: str, kind: str | None
) -> None:
    """Refuse the finished work of another command, and a folder without a file that only this command writes.

    Of a folder that says nothing, its other names decide; one with a manifest alone was begun.
    """
    if kind is not None:
        if kind != what:
            raise OutputError(f"{out} holds a finished {kind} and no {what}: choose a new folder")
        return
    telling = [name for name in names if name not in SHARED_FILES] or names
    if names and not any(_matches(name, patterns) or _is_above(name, patterns) for name in telling):
        raise OutputError(f"{out} holds other files and no {what}: choose a new folder")


def _is_above(name: str, patterns: Iterable[str]) -> bool:
    return any(pattern.startswith(f"{name}/") for pattern in patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return ".." not in name.split("/") and any(fnmatch(name, pattern) for pattern in patterns)


def _finished_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without temporary ones."""
    for path in folder.rglob("*"):
        if path.is_file() and not any(part.endswith(".tmp") for part in path.relative_to(folder).parts):
            yield path


def _mark(path: Path) -> tuple[int, int]:
    """Return the size and the time of a file, by which a change is noticed."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
