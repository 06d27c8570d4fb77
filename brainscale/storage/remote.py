"""Object stores: an object appears whole or not at all, and a store that does not answer is asked again."""

import io
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs as pafs

from brainscale.errors import RERUN, StorageError, UsageError, first_line

Got = TypeVar("Got")
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between attempts: a store's outage of a minute costs a minute."""
GOOGLE_S = 5
"""Seconds that Google's client asks again by itself, beneath our own attempts; left to itself, a quarter of an hour."""
ANONYMOUS = "anonymous@"
"""Before a public bucket's name, in Google's store."""
FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ARGUMENT")
"""What a store says that no patience changes, besides what is a PermissionError."""
GOOGLE = re.compile(r"google::cloud::Status\((\w+): .*?with a last message of (.*?) error_info=")
PIECE = 2**24  # bytes copied at a time


def is_address(place: str | Path) -> bool:
    """Whether a place is in an object store rather than a path."""
    return "://" in str(place) and not str(place).startswith("file://")


def absolute(place: str | Path) -> str:
    """Return a path that means the same in another process, also behind the `@` of a list; an address as it is."""
    text = str(place)
    if text.startswith("@"):
        return f"@{absolute(text[1:])}"
    return text if "://" in text else str(Path(text).absolute())


def below(address: str, name: str) -> str:
    """The address of something in a folder of a store; options stay behind it."""
    base, mark, options = address.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def without_options(place: str) -> tuple[str, str]:
    """A place, and what stands behind it if it is an address: a path may hold a question mark of its own."""
    base, mark, options = place.partition("?") if is_address(place) else (place, "", "")
    return base, mark + options


def parted(address: str) -> tuple[str, str]:
    """The folder's address of an object, and the object's name in it."""
    base, mark, options = address.partition("?")
    folder, _, name = base.rpartition("/")
    return f"{folder}{mark}{options}", unquote(name)


def refuse_keys(place: str) -> None:
    """Refuse an address that holds a key or a password, without saying it; `anonymous@` is neither.

    Raises:
        UsageError: it does.
    """
    scheme, mark, rest = place.partition("://")
    if mark and ("@" in rest.removeprefix(ANONYMOUS).partition("/")[0] or "_key=" in rest.partition("?")[2]):
        where = f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
        raise UsageError(f"{where}: keys do not belong in an address, which is written to tables: use the environment")


@cache
def filesystem_of(address: str) -> tuple[pafs.FileSystem, str]:
    """A store's file system, and the path there.

    Raises:
        UsageError: keys in the address.
        StorageError: no address of a store.
    """
    refuse_keys(address)
    scheme, mark = address.partition("://")[0], "&" if "?" in address else "?"
    limit = f"{mark}retry_limit_seconds={GOOGLE_S}" if scheme in ("gs", "gcs") and "retry_limit_" not in address else ""
    try:
        return pafs.FileSystem.from_uri(address + limit)  # type: ignore[no-any-return]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"{address} is no address that can be read or written: {first_line(error)}") from error


def _said(error: Exception) -> str:
    """What a store said, in one line, without what Google's client says of itself."""
    google = GOOGLE.search(str(error))
    return f"{google[1]}: {google[2]}"[:300] if google else first_line(error)


def retrying(operation: Callable[[], Got], place: str) -> Got:
    """What an operation on a store gives, tried again while the store does not answer.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: it refuses, or did not answer in about a minute.
    """
    for pause in (*PAUSES, None):
        try:
            return operation()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            said = _said(error)
            if not isinstance(error, OSError) and "INVALID_ARGUMENT" not in said:
                raise  # what is in a file, not what its store says
            final = isinstance(error, PermissionError) or any(mark in said for mark in FINAL)
            if final or pause is None:
                raise StorageError(f"{place} cannot be used ({said}): fix that, {RERUN}", final) from None
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (so that workers do not ask all at once)
    raise AssertionError


@dataclass(frozen=True)
class ObjectStore:
    """One folder of an object store.

    Attributes:
        address: such as s3://bucket/folder.
    """

    address: str

    def names(self) -> dict[str, pafs.FileInfo]:
        """Every object below the folder, by its relative name."""
        filesystem, root = filesystem_of(self.address)
        selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
        found = retrying(lambda: filesystem.get_file_info(selector), self.address)
        files = (info for info in found if info.type == pafs.FileType.File)
        return {str(PurePosixPath(info.path).relative_to(root)): info for info in files}

    def get(self, name: str) -> bytes:
        """An object's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        sink = io.BytesIO()
        self.copy_to(name, sink)
        return sink.getvalue()

    def copy_to(self, name: str, sink: BinaryIO) -> None:
        """Write an object's bytes to a seekable stream."""
        filesystem, root = filesystem_of(self.address)

        def copied() -> None:
            sink.seek(0)
            with filesystem.open_input_stream(f"{root}/{name}") as stream:
                shutil.copyfileobj(stream, sink, PIECE)

        retrying(copied, self.address)

    def put(self, name: str, source: BinaryIO) -> None:
        """Write an object from a seekable stream; it appears whole or not at all."""
        filesystem, root = filesystem_of(self.address)
        path = f"{root}/{name}"

        def copied() -> None:
            source.seek(0)
            try:
                with filesystem.open_output_stream(path) as stream:
                    shutil.copyfileobj(source, stream, PIECE)
            except (OSError, pa.ArrowException):
                raise
            except BaseException:  # such as Ctrl-C: pyarrow has made an object of what it was given until then
                with suppress(OSError):
                    filesystem.delete_file(path)
                raise

        try:
            retrying(copied, self.address)
        except FileNotFoundError:
            raise StorageError(f"{self.address} cannot be written: its bucket does not exist", final=True) from None

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        filesystem, root = filesystem_of(self.address)
        for name in names:
            try:
                retrying(partial(filesystem.delete_file, f"{root}/{name}"), self.address)
            except FileNotFoundError:
                continue
