"""Sources → files: a folder, a file, a glob or a list of files, here or in an object store.

The id of a file is its path below the source, so it means the same on every machine. What a file holds, such as
the members of an archive or the slices of a volume, is known only when it is read.
"""

import heapq
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

from brainscale.errors import SampleError, SourceError, StorageError
from brainscale.reading.listing import walk_source
from brainscale.reading.repeated_files import RepeatedFiles, refuse_repeated_sources
from brainscale.reading.sample_ids import escape
from brainscale.reading.series import SliceWindow
from brainscale.storage.remote import filesystem_of, is_address, read_into, retrying

UNREACHABLE = "store_unreachable"
"""Error code of a file whose object store did not answer: it may be read later, and nobody knows what it holds."""
REASONS = {
    "archived": "the object is in an archive tier of the store: restore it first",
    "access_denied": "there is no permission to read the file",
    "gone": "the file does not exist any more",
    "changed": "the file became shorter while it was read",
    UNREACHABLE: "the object store did not answer",
    "unreadable": "the object store refused to give the file",
    "not_a_file": "a link to a folder, a pipe or a device, not a regular file",
}
"""Error code of a file that cannot be opened → why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One file to read.

    Attributes:
        sample_id: path below the source, with forward slashes.
        uri: absolute local path, or an address such as s3://bucket/key.
        nbytes: size when it was listed, bytes, if known; of a portion, that of its members.
        modified: time of its last change when it was listed, ns since 1970, if known.
        sample_ids: ids of the samples to read; None for all.
        sha256s: of the encoded bytes of each of these samples, where a manifest knows them.
        patients: keyed hash of the patient of each of these samples, where a manifest knows them.
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
    patients: tuple[str | None, ...] | None = None
    members: tuple[int, int] | None = None
    group: int | None = None
    windows: Mapping[str, SliceWindow] | None = None

    @property
    def key(self) -> str:
        """Return a name for what is read at once, a file or a portion of one: also the id of an error in its place."""
        return self.sample_id if not self.members or not self.members[0] else f"{self.sample_id}#{self.members[0]}"

    @property
    def place(self) -> tuple[str, int]:
        """Return by what files and portions are sorted."""
        return self.sample_id, self.members[0] if self.members else 0


def list_files(sources: Sequence[str]) -> list[SourceFile]:
    """Return every file of the sources, sorted by id; see `walk_files`."""
    return list(walk_files(sources))


def walk_files(sources: Sequence[str]) -> Iterator[SourceFile]:
    """Yield every file of the sources in the order of ids, without holding all of them in memory.

    With several sources, the files of each folder stand below the folder's own name; a name that comes again
    gets `~2`, `~3` … in the order given.

    Raises:
        SourceError: a source does not exist, holds no files, is named twice or lies in another one, two files have one
            id, or two sources name one file.
    """
    refuse_repeated_sources(sources)
    root_counts: dict[str, int] = {}
    roots = [_root_name(source, root_counts) if len(sources) > 1 else "" for source in sources]
    walks = [zip(_walk_below(source, root), repeat(source)) for source, root in zip(sources, roots, strict=True)]
    previous = None
    repeated = RepeatedFiles(sources)
    for file, source in heapq.merge(*walks, key=lambda pair: pair[0].sample_id):
        repeated.refuse(source, file.uri, file.sample_id)
        if file.sample_id == previous:
            raise SourceError(
                f"Two files would have the sample id '{previous}'. Give their sources in separate commands."
            )
        previous = file.sample_id
        yield file


def require_sources(sources: Iterable[str]) -> None:
    """Check that each source exists and holds a file, by listing no more than the first.

    Raises:
        SourceError: one does not exist, holds no files, is named twice, or lies in another one.
        StorageError: an object store refuses, or does not answer.
    """
    sources = list(sources)
    refuse_repeated_sources(sources)
    for source in sources:
        next(_walk_below(source, ""))


def _walk_below(source: str, root: str) -> Iterator[SourceFile]:
    """Yield the files of a source with ids below a root; a source that is the file itself lends its own name."""
    walk = walk_source(source)
    first = next(walk, None)
    if first is None:
        raise SourceError(f"{source} holds no files. Give a folder, a file, an archive or a glob that matches some.")
    own_name = first.alone and root.partition("~")[0] == first.path
    for path, uri, nbytes, modified, _ in chain([first], walk):
        sample_id = root if own_name else f"{root}/{path}" if root else path
        yield SourceFile(sample_id=sample_id, uri=uri, nbytes=nbytes, modified=modified)


def _root_name(source: str, root_counts: dict[str, int]) -> str:
    """Return the name that a source's files stand below, and count it."""
    name = escape(PurePosixPath(source.partition("?")[0].rstrip("/")).name or "source")
    root_counts[name] = root_counts.get(name, 0) + 1
    return name if root_counts[name] == 1 else f"{name}~{root_counts[name]}"


@contextmanager
def open_file(uri: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file as a seekable stream of bytes, and say how many they are.

    Raises:
        SampleError: a code of `REASONS`, also for what fails while the stream is read. The text leaves out the path,
            since tables hold paths in no free text.
    """
    try:
        with _open(uri) as stream:
            yield stream, stream.seek(0, os.SEEK_END)
    except FileNotFoundError:
        if not is_address(uri) and os.path.lexists(_local_path(uri)):
            raise SampleError("unreadable", "a link to a file that does not exist") from None
        raise SampleError("gone", REASONS["gone"]) from None
    except PermissionError:
        raise SampleError("access_denied", REASONS["access_denied"]) from None
    except StorageError as error:
        text = "the object store did not accept the credentials" if error.final else REASONS[UNREACHABLE]
        raise SampleError(error.code, text if error.code == UNREACHABLE else REASONS[error.code]) from None
    except OSError as error:
        raise SampleError("unreadable", f"the file cannot be read ({type(error).__name__})") from None


class _StoredObject(io.RawIOBase):
    """An object's bytes, each read a request of its own, repeated while its store does not answer.

    Attributes:
        size: bytes, when it was opened.
    """

    def __init__(self, address: str) -> None:
        filesystem, path = filesystem_of(address)
        self._file = retrying(lambda: filesystem.open_input_file(path), address, breaker=True)
        self._address, self.size, self._position = address, int(self._file.size()), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def read(self, nbytes: int = -1) -> bytes:
        """Read at most `nbytes` bytes, or all that are left."""
        remaining = max(0, self.size - self._position)
        count = remaining if nbytes is None or nbytes < 0 else min(nbytes, remaining)
        data = memoryview(bytearray(count))
        return bytes(data[: self.readinto(data)])

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self.size - self._position)]
        if not view:
            return 0
        count = retrying(lambda: read_into(self._file, self._position, view), self._address, breaker=True)
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(uri: str) -> BinaryIO:
    if is_address(uri):
        return cast("BinaryIO", _StoredObject(uri))
    descriptor = os.open(_local_path(uri), os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer must not block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SampleError("not_a_file", REASONS["not_a_file"])
    return open(descriptor, "rb", buffering=0)  # noqa: PTH123


def _local_path(uri: str) -> bytes:
    return unquote_to_bytes(uri.removeprefix("file://")) if uri.startswith("file://") else os.fsencode(uri)
