"""Sources → files: a folder, a file, a glob or a list of files, here or in an object store.

The id of a file is its path below the source, so it means the same on every machine. What a file holds, such as
the members of an archive or the slices of a volume, is known only when it is read.
"""

import glob
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import quote, unquote, unquote_to_bytes

from pyarrow import fs as pafs

from brainscale.errors import SampleError, SourceError, StorageError, UsageError
from brainscale.reading.sample_ids import as_text, escape
from brainscale.reading.series import SliceWindow
from brainscale.storage.remote import (
    ANONYMOUS,
    ObjectStore,
    filesystem_of,
    is_address,
    refuse_keys,
    retrying,
    split_address,
)

UNREACHABLE = "store_unreachable"
"""Error code of a file whose object store did not answer: scoring stops, since nobody knows what the file holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file to read.

    Attributes:
        sample_id: path below the source, with forward slashes.
        uri: absolute local path, or an address such as s3://bucket/key.
        nbytes: size when it was listed, bytes, if known.
        modified: time of its last change when it was listed, ns since 1970, if known.
        sample_ids: ids of the samples to read; None for all.
        sha256s: of the encoded bytes of each of these samples, where a manifest knows them.
        members: first member to read and the one after the last, of an archive that is read in portions.
        group: number that the files of one series share: they are read together. None for a file that is read alone.
        windows: sample id → window, where an earlier reading of the whole series or volume found it.
    """

    sample_id: str
    uri: str
    nbytes: int | None = None
    modified: int | None = None
    sample_ids: tuple[str, ...] | None = None
    sha256s: tuple[str | None, ...] | None = None
    members: tuple[int, int] | None = None
    group: int | None = None
    windows: Mapping[str, SliceWindow] | None = None


class _Listing(NamedTuple):
    path: str  # relative to its source
    uri: str
    nbytes: int | None = None
    modified: int | None = None  # ns since 1970


def list_files(sources: Sequence[str]) -> list[SourceFile]:
    """List every file of the sources, sorted by id.

    With several sources, the files of each folder stand below the folder's own name; a name that comes again
    gets `~2`, `~3` … in the order given.

    Raises:
        SourceError: a source does not exist, holds no files, or gives two files one id.
    """
    root_counts: dict[str, int] = {}
    files = []
    for source in sources:
        listings = list(_list_source(source))
        if not listings:
            raise SourceError(
                f"{source} holds no files. Give a folder, a file, an archive or a glob that matches some."
            )
        root = _root_name(source, root_counts) if len(sources) > 1 else ""
        for path, uri, nbytes, modified in listings:
            sample_id = _file_id(root, escape(path))
            files.append(SourceFile(sample_id=sample_id, uri=uri, nbytes=nbytes, modified=modified))
    files.sort(key=lambda file: file.sample_id)
    for one, other in pairwise(files):
        if one.sample_id == other.sample_id:
            raise SourceError(
                f"Two files would have the sample id '{one.sample_id}'. Give their sources in separate commands."
            )
    return files


@contextmanager
def open_file(uri: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file as a seekable stream of bytes, and say how many they are.

    Raises:
        SampleError: `unreadable`, `not_a_file` or `store_unreachable`. The text leaves out the path, since tables
            hold paths in no free text.
    """
    try:
        with _open(uri) as stream:
            yield stream, stream.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise SampleError("unreadable", "the file does not exist any more") from None
    except PermissionError:
        raise SampleError("unreadable", "permission denied") from None
    except StorageError as error:
        if error.final:
            raise SampleError("unreadable", "the object store refused to give the file") from None
        raise SampleError(UNREACHABLE, "the object store did not answer") from None
    except OSError as error:
        raise SampleError("unreadable", f"the file cannot be read ({type(error).__name__})") from None


class _StoredObject(io.RawIOBase):
    """An object's bytes, each read a request of its own, repeated while its store does not answer."""

    def __init__(self, address: str) -> None:
        filesystem, path = filesystem_of(address)
        self._file = retrying(lambda: filesystem.open_input_file(path), address)
        self._address, self._size, self._position = address, int(retrying(self._file.size, address)), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def read(self, nbytes: int = -1) -> bytes:
        """Read at most `nbytes` bytes, or all that are left."""
        remaining = max(0, self._size - self._position)
        count = remaining if nbytes is None or nbytes < 0 else min(nbytes, remaining)
        data = retrying(lambda: bytes(self._file.read_at(count, self._position)), self._address) if count else b""
        self._position += len(data)
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
        return cast("BinaryIO", _StoredObject(uri))
    path = unquote_to_bytes(uri.removeprefix("file://")) if uri.startswith("file://") else os.fsencode(uri)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer must not block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SampleError("not_a_file", "a link to a folder, a pipe or a device, not a regular file")
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123


def _root_name(source: str, root_counts: dict[str, int]) -> str:
    """Return the name that a source's files stand below, and count it."""
    name = escape(PurePosixPath(source.partition("?")[0].rstrip("/")).name or "source")
    root_counts[name] = root_counts.get(name, 0) + 1
    return name if root_counts[name] == 1 else f"{name}~{root_counts[name]}"


def _file_id(root: str, path: str) -> str:
    """Return the id of a file below a root; a source that is the file itself lends its own name."""
    if not root:
        return path
    return root if root.partition("~")[0] == path else f"{root}/{path}"


def _list_source(source: str) -> Iterable[_Listing]:
    if source.startswith("@"):
        return _list_named(source[1:])
    if is_address(source):
        return _list_store(source)
    path = Path(os.fsdecode(unquote_to_bytes(source.removeprefix("file://")))) if "://" in source else Path(source)
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        return _list_matches(path)
    if not path.exists():
        raise SourceError(f"{source} does not exist. Check the path.")
    return _list_folder(path.absolute()) if path.is_dir() else [_listing(path.absolute(), path.name)]


def _list_folder(folder: Path) -> Iterator[_Listing]:
    """List whatever below a folder is no folder, hidden files and links too; links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be listed: {error.strerror}. Check its permissions.")

    for parent, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in names + links:
            path = Path(parent, name)
            yield _listing(path, path.relative_to(folder).as_posix())


def _listing(path: Path, relative: str) -> _Listing:
    status = None
    with suppress(OSError):  # a broken link: reading it says so
        status = path.stat()
    text = as_text(relative)
    uri = str(path) if text == relative and as_text(str(path)) == str(path) else path.as_uri()
    return _Listing(text, uri, status and status.st_size, status and status.st_mtime_ns)


def _list_matches(pattern: Path) -> Iterator[_Listing]:
    """List the files that a glob matches, with paths below its part before the first wildcard."""
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    folder = Path(*pattern.parts[:first])
    for match in folder.glob(str(Path(*pattern.parts[first:]))):
        if not match.is_dir():
            yield _listing(match.absolute(), match.relative_to(folder).as_posix())


def _list_named(list_file: str) -> Iterator[_Listing]:
    """List the files that a text file names, one a line, with paths below the deepest folder that holds them all."""
    try:
        lines = [line.strip() for line in _read_small_file(list_file).decode().splitlines()]
    except (OSError, UnicodeDecodeError, StorageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(
            f"@{list_file} is not a list of files ({reason}). Give a text file, one path a line."
        ) from None
    uris = [line if "://" in line else str(Path(line).absolute()) for line in lines if line]
    if len({("://" in uri) and uri.partition("://")[0] for uri in uris}) > 1:
        raise SourceError(f"@{list_file} names both paths and addresses. Give them in two lists.")
    try:
        for uri in uris:
            refuse_keys(uri)  # uris are written to tables
    except UsageError as error:
        raise SourceError(str(error)) from None
    paths = [unquote(uri.partition("?")[0]) if "://" in uri else uri for uri in uris]
    folder = os.path.commonpath([str(PurePosixPath(path).parent) for path in paths]) if paths else ""
    for uri, path in zip(uris, paths, strict=True):
        relative = str(PurePosixPath(path).relative_to(folder))
        yield _Listing(relative, uri) if "://" in uri else _listing(Path(uri), relative)


def _read_small_file(location: str) -> bytes:
    if not is_address(location):
        return Path(location).read_bytes()
    folder, name = split_address(location)
    return ObjectStore(folder).get(name)


def _list_store(source: str) -> Iterator[_Listing]:
    scheme, _, rest = source.partition("://")
    options = f"?{rest.partition('?')[2]}" if "?" in rest else ""
    user = ANONYMOUS if rest.startswith(ANONYMOUS) else ""
    try:
        filesystem, path = filesystem_of(source)
        info = retrying(lambda: filesystem.get_file_info(path), source)
        if info.type == pafs.FileType.NotFound:
            raise SourceError(f"{source} does not exist. Check the address.")
        is_file = info.type == pafs.FileType.File
        selector = pafs.FileSelector(path, recursive=True)
        infos = [info] if is_file else retrying(lambda: filesystem.get_file_info(selector), source)
    except (UsageError, StorageError) as error:
        raise SourceError(str(error)) from None
    for info in infos:
        if info.type == pafs.FileType.File:
            relative = info.base_name if is_file else str(PurePosixPath(info.path).relative_to(path))
            yield _Listing(relative, f"{scheme}://{user}{quote(info.path)}{options}", info.size, info.mtime_ns)
