"""Refuse sources that name a file twice: it would be two samples."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote

from brainscale.errors import SourceError
from brainscale.reading.listing import path_of
from brainscale.storage.remote import is_address, split_options


def refuse_repeated_sources(sources: Sequence[str]) -> None:
    """Refuse a source that is named twice or lies in another one; nothing is listed.

    Raises:
        SourceError: names both.
    """
    named: dict[PurePosixPath, str] = {}
    for source in sources:
        location = PurePosixPath(source) if _names_files(source) else _locate(source)
        if (other := named.get(location)) is not None:
            repeats = "is named twice" if other.rstrip("/") == source.rstrip("/") else f"is {other} again"
            raise SourceError(f"{source.rstrip('/')} {repeats}. Name each source once.")
        named[location] = source
    whole = {location: source for location, source in named.items() if not _names_files(source)}
    for location, source in whole.items():
        if outer := next((whole[folder] for folder in location.parents if folder in whole), None):
            raise SourceError(f"{source} lies in {outer}, so its files would be read twice. Name {outer} alone.")


class RepeatedFiles:
    """Refuses a file of a glob or a list that was named before, or lies in a folder that is a source too.

    Only the names of globs and lists are kept. A link to a file counts as a file of its own, also in a folder.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        naming = {source for source in sources if _names_files(source)}
        self._naming = naming if len(sources) > 1 or any(source.startswith("@") for source in naming) else set[str]()
        self._whole = {_locate(source): source for source in sources if source not in naming}
        self._named: dict[PurePosixPath, tuple[str, str]] = {}
        self._resolve = lru_cache(maxsize=4096)(os.path.realpath)  # many files are in one folder

    def refuse(self, source: str, uri: str, name: str) -> None:
        """Refuse the next file if it was named before.

        Args:
            source: the source that names it.
            uri: path or address of the file.
            name: its sample id, for the message.

        Raises:
            SourceError: names it, and the sources.
        """
        if source not in self._naming:
            return
        location = _locate(uri, self._resolve)
        if outer := next((self._whole[each] for each in _upwards(location) if each in self._whole), None):
            raise SourceError(f"{source} names {name}, which is in {outer} too. Name each file once.")
        if location in self._named:
            other_source, other_name = self._named[location]
            where = "" if other_source == source else f" of {other_source}"
            raise SourceError(f"{source} names {name}, which is the same file as {other_name}{where}: name it once.")
        self._named[location] = source, name


def _names_files(source: str) -> bool:
    """Return whether a source is a list of files or a glob: one that is no path with such signs in it."""
    if source.startswith("@"):
        return True
    return not is_address(source) and glob.has_magic(str(path_of(source))) and not os.path.lexists(path_of(source))


def _locate(source: str, resolve: Callable[[Path], str] = os.path.realpath) -> PurePosixPath:
    """Return where a folder or file is, by whatever links to folders its path leads there.

    Args:
        source: path or address.
        resolve: path of a folder → the same without links.
    """
    if is_address(source):
        address, options = split_options(source)
        store = parse_qs(options.removeprefix("?")).get("endpoint_override", [""])
        return PurePosixPath(store[0], unquote(address))
    path = path_of(source)
    if path.is_dir():
        return PurePosixPath(resolve(path))
    return PurePosixPath(resolve(path.parent), path.name)


def _upwards(location: PurePosixPath) -> Iterator[PurePosixPath]:
    yield location
    yield from location.parents
