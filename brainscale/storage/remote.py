"""Object stores: objects are written whole or not at all, and failed requests are repeated."""

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

Result = TypeVar("Result")
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between attempts. Together they outlast an outage of a minute."""
GOOGLE_S = 5
"""Seconds for which Google's client repeats a request itself within one attempt; its default is 15 minutes."""
ANONYMOUS = "anonymous@"
"""Prefix of the name of a public bucket in Google's store, which needs no credentials."""
FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "INVALID_ARGUMENT")
"""Codes of refusals that a further attempt would meet too, besides every PermissionError."""
GOOGLE_MESSAGE = re.compile(r"google::cloud::Status\((\w+): .*?with a last message of (.*?) error_info=")
CHUNK = 2**24  # bytes copied at a time


def is_address(location: str | Path) -> bool:
    """Return whether a location is an address in an object store rather than a path."""
    return "://" in str(location) and not str(location).startswith("file://")


def make_absolute(location: str | Path) -> str:
    """Return the absolute form of a path, or of the path behind the `@` of a list; an address is returned unchanged."""
    text = str(location)
    if text.startswith("@"):
        return f"@{make_absolute(text[1:])}"
    return text if "://" in text else str(Path(text).absolute())


def join_address(address: str, name: str) -> str:
    """Return the address of an object in a folder; options after `?` stay at the end."""
    base, mark, options = address.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def split_options(location: str) -> tuple[str, str]:
    """Split an address into the part before `?` and the options; a path is returned whole, since it may contain `?`."""
    base, mark, options = location.partition("?") if is_address(location) else (location, "", "")
    return base, mark + options


def split_address(address: str) -> tuple[str, str]:
    """Split the address of an object into the address of its folder and its name."""
    base, mark, options = address.partition("?")
    folder, _, name = base.rpartition("/")
    return f"{folder}{mark}{options}", unquote(name)


def refuse_keys(location: str) -> None:
    """Refuse an address that contains a key or a password; the message does not repeat it.

    Raises:
        UsageError: the address contains a key or a password.
    """
    scheme, mark, rest = location.partition("://")
    if mark and ("@" in rest.removeprefix(ANONYMOUS).partition("/")[0] or "_key=" in rest.partition("?")[2]):
        public = f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
        raise UsageError(
            f"the address {public} contains a key or a password, which would be written to tables: set it in the "
            "environment instead"
        )


@cache
def filesystem_of(address: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        UsageError: the address contains a key or a password.
        StorageError: the address is not one of an object store.
    """
    refuse_keys(address)
    scheme, mark = address.partition("://")[0], "&" if "?" in address else "?"
    limit = f"{mark}retry_limit_seconds={GOOGLE_S}" if scheme in ("gs", "gcs") and "retry_limit_" not in address else ""
    try:
        return pafs.FileSystem.from_uri(address + limit)  # type: ignore[no-any-return]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"{address} is not an address of an object store ({first_line(error)}): check it") from error


def _reason(error: Exception) -> str:
    """Return a store's message in one line, without the internals of Google's client."""
    google = GOOGLE_MESSAGE.search(str(error))
    return f"{google[1]}: {google[2]}"[:300] if google else first_line(error)


def retrying(operation: Callable[[], Result], location: str) -> Result:
    """Return the result of an operation on a store; repeat the operation while the store does not answer.

    Args:
        operation: reads or writes.
        location: address for the message.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the store refuses, or did not answer for about a minute.
    """
    for pause in (*PAUSES, None):
        try:
            return operation()
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            reason = _reason(error)
            if not isinstance(error, OSError) and "INVALID_ARGUMENT" not in reason:
                raise  # the content of a file is wrong; its store answered
            final = isinstance(error, PermissionError) or any(code in reason for code in FINAL)
            if final or pause is None:
                message = f"{location} cannot be read or written ({reason}): fix the cause and {RERUN}"
                raise StorageError(message, final) from None
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (so that workers do not all ask at the same time)
    raise AssertionError


@dataclass(frozen=True)
class ObjectStore:
    """A folder of an object store.

    Attributes:
        address: its address, such as s3://bucket/folder.
    """

    address: str

    def names(self) -> dict[str, pafs.FileInfo]:
        """Return all objects below the folder by their names relative to it."""
        filesystem, root = filesystem_of(self.address)
        selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
        entries = retrying(lambda: filesystem.get_file_info(selector), self.address)
        files = (info for info in entries if info.type == pafs.FileType.File)
        return {str(PurePosixPath(info.path).relative_to(root)): info for info in files}

    def get(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        sink = io.BytesIO()
        self.copy_to(name, sink)
        return sink.getvalue()

    def copy_to(self, name: str, sink: BinaryIO) -> None:
        """Copy an object to a seekable stream."""
        filesystem, root = filesystem_of(self.address)

        def copy() -> None:
            sink.seek(0)
            with filesystem.open_input_stream(f"{root}/{name}") as stream:
                shutil.copyfileobj(stream, sink, CHUNK)

        retrying(copy, self.address)

    def put(self, name: str, source: BinaryIO) -> None:
        """Write an object from a seekable stream, whole or not at all."""
        filesystem, root = filesystem_of(self.address)
        path = f"{root}/{name}"

        def copy() -> None:
            source.seek(0)
            try:
                with filesystem.open_output_stream(path) as stream:
                    shutil.copyfileobj(source, stream, CHUNK)
            except (OSError, pa.ArrowException):
                raise
            except BaseException:  # such as Ctrl-C: pyarrow has already made an object of the first part
                with suppress(OSError):
                    filesystem.delete_file(path)
                raise

        try:
            retrying(copy, self.address)
        except FileNotFoundError:
            message = f"{self.address} cannot be written, since its bucket does not exist: create the bucket first"
            raise StorageError(message, final=True) from None

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; a missing object is no error."""
        filesystem, root = filesystem_of(self.address)
        for name in names:
            try:
                retrying(partial(filesystem.delete_file, f"{root}/{name}"), self.address)
            except FileNotFoundError:
                continue
