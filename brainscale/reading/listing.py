"""Listing a folder, a glob, a list of files, an inventory or an object store, in the order of the ids."""

import glob
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

import pyarrow as pa
from pyarrow import fs as pafs

from brainscale.errors import SourceError, StorageError, UsageError
from brainscale.reading.inventory import read_manifest, walk_inventory
from brainscale.reading.sample_ids import as_text, escape
from brainscale.storage.remote import (
    ANONYMOUS,
    filesystem_of,
    is_address,
    read_whole,
    refuse_keys,
    retrying,
    split_options,
)

THREADS = 16
PAGE_NAMES = 1000  # in one answer of a store
MAX_HELD = 2**20  # names that one request may bring, where many small folders make one listing quicker
SECOND = 10**9  # ns


class Listing(NamedTuple):
    """A file of a source.

    Attributes:
        path: path below the source, escaped as in an id.
        uri: absolute local path, or an address.
        nbytes: size, bytes.
        modified: time of the last change, ns since 1970; a store's is a whole second.
        alone: whether the source is the file itself.
    """

    path: str
    uri: str
    nbytes: int | None = None
    modified: int | None = None
    alone: bool = False


def walk_source(source: str) -> Iterator[Listing]:
    """Yield the files of a source in the order of their paths.

    Memory holds the names of one folder at each level, or below a few prefixes of a store; but all names of a glob
    or a list of files.

    Raises:
        SourceError: the source does not exist, or cannot be listed.
    """
    if source.startswith("@"):
        return _sorted(_list_named(source[1:]))
    path = path_of(source)
    location = source if is_address(source) else str(path)
    if manifest := read_manifest(location):
        return (Listing(*row) for row in walk_inventory(location, manifest))
    if is_address(source):
        return _walk_store(source)
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        return _sorted(_list_matches(path))
    if not path.exists():
        raise SourceError(f"{source} does not exist. Check the path.")
    path = path.absolute()
    return _walk_folder(str(path)) if path.is_dir() else iter([_listing(str(path), path.name, alone=True)])


def path_of(source: str) -> Path:
    """Return the path of a local source, which may be a file:// address."""
    return Path(os.fsdecode(unquote_to_bytes(source.removeprefix("file://"))) if "://" in source else source)


def _sorted(listings: Iterable[Listing]) -> Iterator[Listing]:
    return iter(sorted(listings, key=lambda listing: listing.path))


def _escape_name(name: str) -> str:
    """Return a name, perhaps with odd bytes, as it stands in an id."""
    if name.isascii() and "!" not in name and "#" not in name and "%" not in name:
        return name  # most names, ten times as fast
    return escape(as_text(name))


def _listing(path: str, relative: str, alone: bool = False) -> Listing:
    status = None
    with suppress(OSError):  # a broken link: reading it says so
        status = os.stat(path)  # noqa: PTH116 (a path object costs more than the call)
    uri = path if path.isascii() or as_text(path) == path else Path(path).as_uri()
    return Listing(_escape_name(relative), uri, status and status.st_size, status and status.st_mtime_ns, alone)


def _walk_folder(folder: str) -> Iterator[Listing]:
    """Yield whatever below a folder is no folder, hidden files and links too; links to folders are not followed."""
    start = len(folder.rstrip("/")) + 1
    names = [iter(_list_names(folder))]
    folders = [folder]
    while names:
        name = next(names[-1], None)
        if name is None:
            names.pop()
            folders.pop()
            continue
        path = os.path.join(folders[-1], name)  # noqa: PTH118
        if name.endswith("/"):
            folders.append(path)
            names.append(iter(_list_names(path)))
        else:
            yield _listing(path, path[start:])


def _list_names(folder: str) -> list[str]:
    """Return the names in a folder in the order of ids: a folder counts as its name and a slash."""
    try:
        with os.scandir(folder) as entries:
            names = [f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name for entry in entries]
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be listed: {error.strerror}. Check its permissions.") from None
    return sorted(names, key=_escape_name)


def _list_matches(pattern: Path) -> Iterator[Listing]:
    """List the files that a glob matches, with paths below its part before the first wildcard."""
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    folder = Path(*pattern.parts[:first])
    for match in folder.glob(str(Path(*pattern.parts[first:]))):
        if not match.is_dir():
            yield _listing(str(match.absolute()), match.relative_to(folder).as_posix())


def _list_named(list_file: str) -> Iterator[Listing]:
    """List the files that a text file names, one a line, with paths below the deepest folder that holds them all."""
    try:
        lines = [line.strip() for line in read_whole(list_file).decode().splitlines()]
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
        yield Listing(escape(relative), uri) if "://" in uri else _listing(uri, relative)


def _walk_store(source: str) -> Iterator[Listing]:
    base, options = split_options(source)
    scheme, _, rest = base.partition("://")
    user = ANONYMOUS if rest.startswith(ANONYMOUS) else ""
    try:
        filesystem, root = filesystem_of(source)
        info = retrying(lambda: filesystem.get_file_info(root), source)
        if info.type == pafs.FileType.NotFound:
            raise SourceError(f"{source} does not exist. Check the address.")
        is_file = info.type == pafs.FileType.File
        for file in [info] if is_file else _Prefixes(filesystem, root, source).walk():
            path = escape(file.base_name) if is_file else _id_path(file).removeprefix(_id_path(info))
            uri = f"{scheme}://{user}{quote(file.path)}{options}"
            yield Listing(path, uri, file.size, file.mtime_ns and file.mtime_ns // SECOND * SECOND, is_file)
    except (UsageError, StorageError) as error:
        raise SourceError(str(error)) from None


class _Prefixes:
    """Lists the folders of a bucket of S3 side by side, since the pages of one listing come one after the other."""

    def __init__(self, filesystem: pafs.FileSystem, root: str, address: str) -> None:
        self._filesystem, self._root, self._address = filesystem, root, address

    def walk(self) -> Iterator[pafs.FileInfo]:
        """Yield the files below the root in the order of ids."""
        if not isinstance(self._filesystem, pafs.S3FileSystem):  # Google's shows no folders but those made as objects
            yield from self._list(self._root)
            return
        pa.set_io_thread_count(max(THREADS, pa.io_thread_count()))  # of eight, pyarrow's requests would share
        pool = ThreadPoolExecutor(THREADS)
        try:
            yield from self._walk(pool)
        finally:  # also when nobody wants the rest
            pool.shutdown(cancel_futures=True)

    def _walk(self, pool: ThreadPoolExecutor) -> Iterator[pafs.FileInfo]:
        items = self._list(self._root, recursive=False)
        for _level in range(3):  # a few folders that hold everything
            folders = [item.path for item in items if _is_folder(item)]
            if not folders or len(folders) >= 2 * THREADS:
                break
            levels = dict(zip(folders, pool.map(partial(self._list, recursive=False), folders), strict=True))
            items = [inner for item in items for inner in (levels[item.path] if _is_folder(item) else [item])]
        folders = [item.path for item in items if _is_folder(item)]
        begun = {folder: pool.submit(self._list, folder) for folder in folders[: 2 * THREADS]}
        if len(folders) > 8 * THREADS:
            mean = sum(len(listed.result()) for listed in begun.values()) / len(begun)
            if mean * THREADS < PAGE_NAMES and mean * len(folders) < MAX_HELD:
                yield from self._list(self._root)
                return
        waiting = deque(folders[2 * THREADS :])
        for item in items:
            if not _is_folder(item):
                yield item
                continue
            yield from begun.pop(item.path).result()
            if waiting:
                folder = waiting.popleft()
                begun[folder] = pool.submit(self._list, folder)

    def _list(self, folder: str, recursive: bool = True) -> list[pafs.FileInfo]:
        """Return what is in a folder, or all files below it, in the order of ids."""
        selector = pafs.FileSelector(folder, recursive=recursive, allow_not_found=True)
        infos = retrying(lambda: self._filesystem.get_file_info(selector), self._address)
        if not recursive and any(info.path.rstrip("/") == folder for info in infos):
            return self._list(folder)  # a key with an empty part, a//b, is found by a recursive listing only
        wanted = [info for info in infos if info.type == pafs.FileType.File or not recursive]
        return sorted(wanted, key=_id_path)


def _id_path(info: pafs.FileInfo) -> str:
    """Return the path of an object in its store as in an id; a folder's ends with a slash."""
    path = _escape_name(info.path)
    if "//" in path:
        path = re.sub("/+", "/", path)
    return f"{path}/" if _is_folder(info) else path


def _is_folder(info: pafs.FileInfo) -> bool:
    return bool(info.type == pafs.FileType.Directory)
