"""Output folders at hand: a local one itself, a store's as a local copy that is put back file by file.

`_SUCCESS.json` goes last, and goes first where it is removed.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from pyarrow import Table
from pyarrow import fs as pafs

from brainscale.errors import BrainscaleError, OutputError
from brainscale.storage.local import SUCCESS, output_folder, read_success, replacing
from brainscale.storage.remote import ObjectStore, below, filesystem_of, is_address, parted
from brainscale.storage.tables import read_table


@dataclass
class Workspace:
    """An output folder at hand: itself where it is local, a local copy where it is in a store.

    Attributes:
        path: the local folder.
        store: where the copy belongs.
    """

    path: Path
    store: ObjectStore | None = None
    _here: dict[str, tuple[int, int]] = field(default_factory=dict)  # name → size and time, as put or brought
    _there: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.store.address if self.store else str(self.path)

    def place(self, name: str) -> str:
        """The path or address of something in the folder."""
        return below(self.store.address, name) if self.store else str(self.path / name)

    def filesystem(self, name: str) -> tuple[pafs.FileSystem | None, str]:
        """For libraries that write by themselves: a file system, none for the local one, and a path in the folder."""
        if self.store is None:
            return None, str(self.path / name)
        filesystem, root = filesystem_of(self.store.address)
        return filesystem, f"{root}/{name}"

    def listed(self, pattern: str) -> list[str]:
        """Names that match and are in the folder itself, sorted; where it belongs, not in the copy."""
        names = self.store.names() if self.store else [p.name for p in self.path.glob(pattern)]
        return sorted(name for name in names if "/" not in name and fnmatch(name, pattern))

    def table(self, name: str, columns: Sequence[str]) -> Table:
        """Columns of a table of predictions where it belongs, not in the copy."""
        return read_table(self.place(name), "predictions", columns)

    def remove(self, name: str) -> None:
        """Delete a file where it belongs; one that is not there is no error."""
        if self.store is None:
            (self.path / name).unlink(missing_ok=True)
        else:
            self.store.remove([name])

    def pull(self, *patterns: str, afresh: bool = False) -> None:
        """Bring objects that match a pattern and changed since; all that match, if asked afresh."""
        if self.store is None:
            return
        for name, info in self.store.names().items():
            mark = (info.size, info.mtime_ns or 0)
            if not _matches(name, patterns) or (self._there.get(name) == mark and not afresh):
                continue
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as aside, aside.open("wb") as sink:
                self.store.copy_to(name, sink)
            self._there[name], self._here[name] = mark, _mark(target)

    def push(self) -> None:
        """Put what is new or changed here; delete there what was deleted here."""
        if self.store is None:
            return
        here = {p.relative_to(self.path).as_posix(): _mark(p) for p in _kept(self.path)}
        gone = self._here.keys() - here.keys()
        self.store.remove(sorted(gone, key=lambda name: name != SUCCESS))  # first what says that it is complete
        changed = [name for name, mark in here.items() if self._here.get(name) != mark]
        for name in sorted(changed, key=lambda name: (name == SUCCESS, name)):
            with (self.path / name).open("rb") as source:
                self.store.put(name, source)
            self._here[name] = here[name]
        for name in gone:
            del self._here[name]


@contextmanager
def open_workspace(
    out: str | Path, pulled: Sequence[str], *, known: Sequence[str] = (), what: str = "results"
) -> Iterator[Workspace]:
    """An output folder to work in; what changed in it is put where it belongs when the with-block ends.

    Args:
        out: a path, made if it is not there, or an address.
        pulled: patterns of the names to bring from a store at first.
        known: patterns of further names that are ours.
        what: to call what is expected there.

    Raises:
        OutputError: the place cannot be written, or a store's folder holds other files.
    """
    if not is_address(out):
        folder = output_folder(out)
        _refuse_other_files(out, [p.name for p in folder.iterdir() if p.suffix != ".tmp"], [*pulled, *known], what)
        yield Workspace(folder)
        return
    with _copy(str(out)) as mirror:
        _refuse_other_files(out, ObjectStore(str(out)).names(), [*pulled, *known], what)
        mirror.pull(*pulled)
        try:
            yield mirror
        finally:
            mirror.push()


@contextmanager
def fetch(place: str | Path, *patterns: str, push: bool = False) -> Iterator[Path]:
    """A folder to read: itself, or a local copy of what matches in a store's folder.

    Args:
        place: a path, or an address.
        patterns: of the names to bring.
        push: whether what changes in a copy is put back.
    """
    if not is_address(place):
        yield Path(place)
        return
    with _copy(str(place)) as mirror:
        mirror.pull(*patterns)
        try:
            yield mirror.path
        finally:
            if push:
                mirror.push()


def is_complete(place: str | Path) -> bool:
    """Whether a folder holds finished work."""
    with fetch(place, SUCCESS) as folder:
        return read_success(folder) is not None


@contextmanager
def _copy(address: str) -> Iterator[Workspace]:
    """An empty local folder for a store's; errors name the address."""
    with tempfile.TemporaryDirectory(prefix="brainscale-") as scratch:
        mirror = Workspace(Path(scratch) / (parted(address)[1] or "folder"), ObjectStore(address))
        mirror.path.mkdir()
        with _named(mirror):
            yield mirror


@contextmanager
def _named(mirror: Workspace) -> Iterator[None]:
    """Errors name the address, not the copy."""
    try:
        yield
    except BrainscaleError as error:
        if str(mirror.path) not in str(error):
            raise
        raise type(error)(str(error).replace(str(mirror.path), str(mirror))) from None


def _refuse_other_files(out: str | Path, names: Collection[str], patterns: Sequence[str], what: str) -> None:
    if names and not any(_matches(name, patterns) or _is_above(name, patterns) for name in names):
        raise OutputError(f"{out} holds other files and no {what}: choose a new folder")


def _is_above(name: str, patterns: Iterable[str]) -> bool:
    return any(pattern.startswith(f"{name}/") for pattern in patterns)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return ".." not in name.split("/") and any(fnmatch(name, pattern) for pattern in patterns)


def _kept(folder: Path) -> Iterator[Path]:
    """Files below a folder; names that begin with a dot and end in .tmp are of something half written."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".tmp":
            yield path


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
