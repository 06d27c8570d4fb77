"""What a source is: a folder, a file, a glob or a list of files, here or in an object store → units of work.

A unit is one file. Its id is its path below the source, so it means the same on every machine. What is inside
a file, an archive's members or a volume's slices, shows when it is read.
"""

import glob
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, unquote_to_bytes

from pyarrow import fs as pafs

from brainscale.errors import SampleError, SourceError, StorageError, UsageError
from brainscale.reading.sample_ids import as_text, escape
from brainscale.storage.remote import ANONYMOUS, ObjectStore, filesystem_of, is_address, parted, retrying

UNREACHABLE = "store_unreachable"
"""Code of a sample whose store did not answer: the job ends with it, for nobody knows what the sample is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file to read.

    Attributes:
        sample_id: path below the source, with forward slashes.
        uri: absolute local path, or an address such as s3://bucket/key.
        nbytes: size when it was listed, if known.
        sample_ids: ids of the samples to read; None for all.
    """

    sample_id: str
    uri: str
    nbytes: int | None = None
    sample_ids: tuple[str, ...] | None = None


def list_files(sources: Sequence[str]) -> list[SourceFile]:
    """Every file of the sources, sorted by id.

    With several sources, each folder's files stand below the folder's own name; a name that comes again
    gets `~2`, `~3` … in the order given.

    Raises:
        SourceError: a source does not exist, holds no file, or gives two files one id.
    """
    roots: dict[str, int] = {}
    units = []
    for source in sources:
        files = list(_files(source))
        if not files:
            raise SourceError(f"{source} holds no files: give a folder of images")
        root = _root(source, roots) if len(sources) > 1 else ""
        units += [SourceFile(sample_id=_below(root, escape(path)), uri=uri, nbytes=size) for path, uri, size in files]
    units.sort(key=lambda unit: unit.sample_id)
    for one, other in pairwise(units):
        if one.sample_id == other.sample_id:
            raise SourceError(f"two files would both be '{one.sample_id}': give their sources in separate commands")
    return units


@contextmanager
def open_file(uri: str) -> Iterator[tuple[BinaryIO, int]]:
    """A file's bytes as a seekable stream, and their number.

    Raises:
        SampleError: `unreadable`, `not_a_file` or `store_unreachable`; without the path, which tables do not hold
            in free text.
    """
    try:
        with _open(uri) as stream:
            yield stream, stream.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise SampleError("unreadable", "the file does not exist any more") from None
    except PermissionError:
        raise SampleError("unreadable", "permission denied") from None
    except StorageError as error:
        raise SampleError("unreadable" if error.final else UNREACHABLE, "its store does not give it out") from None
    except OSError as error:
        raise SampleError("unreadable", f"the file cannot be read ({type(error).__name__})") from None


class _Remote(io.RawIOBase):
    """An object's bytes, each read a request of its own; a store that does not answer is asked again."""

    def __init__(self, address: str) -> None:
        filesystem, path = filesystem_of(address)
        self._file = retrying(lambda: filesystem.open_input_file(path), address)
        self._address, self._size, self._at = address, int(retrying(self._file.size, address)), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        """So many bytes, or all that are left."""
        left = max(0, self._size - self._at)
        wanted = left if count is None or count < 0 else min(count, left)
        data = retrying(lambda: bytes(self._file.read_at(wanted, self._at)), self._address) if wanted else b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(uri: str) -> BinaryIO:
    if is_address(uri):
        return cast("BinaryIO", _Remote(uri))
    local = unquote_to_bytes(uri.removeprefix("file://")) if uri.startswith("file://") else os.fsencode(uri)
    descriptor = os.open(local, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer must not block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SampleError("not_a_file", "a link to a folder, a pipe or a device, not a file")
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123


def _root(source: str, roots: dict[str, int]) -> str:
    name = escape(PurePosixPath(source.partition("?")[0].rstrip("/")).name or "source")
    roots[name] = roots.get(name, 0) + 1
    return name if roots[name] == 1 else f"{name}~{roots[name]}"


def _below(root: str, relative: str) -> str:
    """The id of a file below its source; a source that is the file itself lends its own name."""
    if not root:
        return relative
    return root if root.partition("~")[0] == relative else f"{root}/{relative}"


def _files(source: str) -> Iterable[tuple[str, str, int | None]]:
    """(relative path, uri, size) of each file; a glob's paths are relative to its fixed part."""
    if source.startswith("@"):
        return _listed(source[1:])
    if is_address(source):
        return _remote(source)
    path = Path(os.fsdecode(unquote_to_bytes(source.removeprefix("file://")))) if "://" in source else Path(source)
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        return _matched(path)
    if not path.exists():
        raise SourceError(f"{source} does not exist")
    return _walked(path.absolute()) if path.is_dir() else [_entry(path.absolute(), path.name)]


def _walked(folder: Path) -> Iterator[tuple[str, str, int | None]]:
    """Whatever below a folder is no folder, hidden files and links too; links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be listed: {error.strerror}")

    for here, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if Path(here, name).is_symlink()]
        for name in names + links:
            path = Path(here, name)
            yield _entry(path, path.relative_to(folder).as_posix())


def _entry(path: Path, relative: str) -> tuple[str, str, int | None]:
    try:
        size = path.stat().st_size
    except OSError:
        size = None  # a broken link: reading it says so
    name = as_text(relative)
    return name, str(path) if name == relative and as_text(str(path)) == str(path) else path.as_uri(), size


def _matched(pattern: Path) -> Iterator[tuple[str, str, int | None]]:
    """Files that a glob names, with paths below its part before the first wildcard."""
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    base = Path(*pattern.parts[:first])
    for match in base.glob(str(Path(*pattern.parts[first:]))):
        if not match.is_dir():
            yield _entry(match.absolute(), match.relative_to(base).as_posix())


def _listed(file: str) -> Iterator[tuple[str, str, int | None]]:
    """Files that a text file names, one a line, with paths below the deepest folder that holds them all."""
    try:
        lines = [line.strip() for line in _content(file).decode().splitlines()]
    except (OSError, UnicodeDecodeError, StorageError) as error:
        raise SourceError(f"@{file} is no list of files: {error}") from None
    paths = [line if "://" in line else str(Path(line).absolute()) for line in lines if line]
    if len({("://" in path) and path.partition("://")[0] for path in paths}) > 1:
        raise SourceError(f"@{file} names both paths and addresses: give two lists")
    names = [unquote(path.partition("?")[0]) if "://" in path else path for path in paths]
    base = os.path.commonpath([str(PurePosixPath(name).parent) for name in names]) if names else ""
    for path, name in zip(paths, names, strict=True):
        relative = str(PurePosixPath(name).relative_to(base))
        yield (relative, path, None) if "://" in path else _entry(Path(path), relative)


def _content(place: str) -> bytes:
    """Of a small file, here or in a store."""
    if not is_address(place):
        return Path(place).read_bytes()
    folder, name = parted(place)
    return ObjectStore(folder).get(name)


def _remote(source: str) -> Iterator[tuple[str, str, int | None]]:
    scheme, _, rest = source.partition("://")
    options = f"?{rest.partition('?')[2]}" if "?" in rest else ""
    user = ANONYMOUS if rest.startswith(ANONYMOUS) else ""
    try:
        filesystem, path = filesystem_of(source)
        info = retrying(lambda: filesystem.get_file_info(path), source)
        if info.type == pafs.FileType.NotFound:
            raise SourceError(f"{source} does not exist")
        whole = info.type == pafs.FileType.File
        below = pafs.FileSelector(path, recursive=True)
        found = [info] if whole else retrying(lambda: filesystem.get_file_info(below), source)
    except (UsageError, StorageError) as error:
        raise SourceError(str(error)) from None
    for item in found:
        if item.type == pafs.FileType.File:
            relative = item.base_name if whole else str(PurePosixPath(item.path).relative_to(path))
            yield relative, f"{scheme}://{user}{quote(item.path)}{options}", item.size
