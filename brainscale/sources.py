"""What a source is: a folder, a file or a glob, here or in an object store → units of work.

A unit is one file. Its sample_id is its path below the source, so it means the same on every machine.
"""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from pyarrow import fs as pafs

from brainscale.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One file to read.

    Attributes:
        sample_id: path below the source, with forward slashes.
        uri: absolute local path, or an address such as s3://bucket/key.
    """

    sample_id: str
    uri: str


def listing(sources: Sequence[str]) -> list[Unit]:
    """Every file of the sources, sorted by sample_id.

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
        units += [Unit(sample_id=_below(root, relative), uri=uri) for relative, uri in files]
    units.sort(key=lambda unit: unit.sample_id)
    for one, other in pairwise(units):
        if one.sample_id == other.sample_id:
            raise SourceError(f"two files would both be '{one.sample_id}': give their sources in separate commands")
    return units


def read_bytes(uri: str, limit: int) -> bytes:
    """The bytes of a file, at most `limit + 1` of them, so that a caller can tell one that is too large."""
    filesystem, path = _filesystem(uri)
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read(limit + 1))


def _root(source: str, roots: dict[str, int]) -> str:
    name = PurePosixPath(source.rstrip("/")).name or "source"
    roots[name] = roots.get(name, 0) + 1
    return name if roots[name] == 1 else f"{name}~{roots[name]}"


def _below(root: str, relative: str) -> str:
    """The id of a file below its source; a source that is the file itself lends its own name."""
    if not root:
        return relative
    return root if root.partition("~")[0] == relative else f"{root}/{relative}"


def _files(source: str) -> Iterable[tuple[str, str]]:
    """(relative path, uri) of each file; a glob's paths are relative to its fixed part."""
    if "://" not in source and glob.has_magic(source) and not Path(source).exists():
        base, pattern = _cut(source)
        for match in sorted(base.glob(pattern)):
            if match.is_file():
                yield match.relative_to(base).as_posix(), str(match.absolute())
        return
    filesystem, path = _filesystem(source)
    scheme = source.partition("://")[0] + "://" if "://" in source else ""
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise SourceError(f"{source} does not exist")
        if info.type == pafs.FileType.File:
            yield PurePosixPath(path).name, scheme + path
            return
        for item in filesystem.get_file_info(pafs.FileSelector(path, recursive=True)):
            if item.type == pafs.FileType.File:
                yield str(PurePosixPath(item.path).relative_to(path)), scheme + item.path
    except OSError as error:
        raise SourceError(f"{source} cannot be listed: {error}") from error


def _cut(source: str) -> tuple[Path, str]:
    """A glob's folder before the first wildcard, and the pattern below it."""
    parts = Path(source).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first]), str(Path(*parts[first:]))


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        return pafs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise SourceError(f"{uri} is no address that can be read: {error}") from error
