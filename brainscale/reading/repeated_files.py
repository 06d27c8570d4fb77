"""Refuse sources that name a file twice: it would be two samples."""

import glob
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

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
        location = PurePosixPath(source if _is_many(source) else _location_of(source))
        if location in named:
            same = (
                "is named twice" if named[location].rstrip("/") == source.rstrip("/") else f"is {named[location]} again"
            )
            raise SourceError(f"{source.rstrip('/')} {same}. Name each source once.")
        named[location] = source
    for location, source in named.items():
        if outer := next((named[folder] for folder in location.parents if folder in named), None):
            raise SourceError(f"{source} lies in {outer}, so its files would be read twice. Name {outer} alone.")


class RepeatedFiles:
    """Refuses a file that was named before, where that is possible: where a glob or a list is among the sources.

    Their names are all in memory anyway. What other sources hold, `refuse_repeated_sources` can tell from their names.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        has_list = any(source.startswith("@") for source in sources)
        self._is_possible = has_list or (len(sources) > 1 and any(map(_is_many, sources)))
        self._named: dict[str, str] = {}

    def refuse(self, source: str, uri: str, name: str) -> None:
        """Refuse the next file if it was named before.

        Args:
            source: the source that names it.
            uri: path or address of the file.
            name: its sample id, for the message.

        Raises:
            SourceError: names it, and the sources.
        """
        if not self._is_possible:
            return
        location = _location_of(uri)
        if location in self._named:
            other = self._named[location]
            again = f"{name} twice" if other == source else f"{name}, which is in {other} too"
            raise SourceError(f"{source} names {again}. Name each file once.")
        self._named[location] = source


def _is_many(source: str) -> bool:
    """Return whether a source is a list of files, or a glob and not a path with such signs in it."""
    if source.startswith("@"):
        return True
    return not is_address(source) and glob.has_magic(source) and not os.path.lexists(path_of(source))


def _location_of(source: str) -> str:
    """Return an address without its options, or the path where a path ends that may lead over links."""
    return split_options(source)[0] if is_address(source) else os.path.realpath(path_of(source))
