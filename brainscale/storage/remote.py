"""Object stores: objects are written whole or not at all, and failed requests are repeated."""

import io
import random
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from math import inf
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs as pafs

from brainscale.errors import RERUN, StorageError, UsageError, first_line

Result = TypeVar("Result")
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between attempts. Together they outlast an outage of a minute."""
ATTEMPTS = 2
"""Requests that the client of S3 sends within one attempt; its default repeats for up to seven seconds."""
GOOGLE_S = 2
"""Seconds for which Google's client repeats a request itself within one attempt; its default is 15 minutes."""
ANONYMOUS = "anonymous@"
"""Prefix of the name of a public bucket in Google's store, which needs no credentials."""
REFUSALS = (
    ("archived", r"INVALID_OBJECT_STATE|InvalidObjectState|BlobArchived|archived blob"),
    ("store_unreachable", r"INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|InvalidAccessKeyId"),
    ("store_unreachable", r"ExpiredToken|InvalidToken|RequestTimeTooSkewed|UNAUTHENTICATED|AuthenticationFailed"),
    ("access_denied", r"ACCESS_DENIED|AccessDenied|AccessDisabled|PERMISSION_DENIED|\bKMS\b|HTTP status 40[13]\b"),
    ("access_denied", r"AuthorizationFailure|Authorization\w+Mismatch"),
    ("gone", r"NO_SUCH_(KEY|BUCKET)|NoSuch(Key|Bucket)|RESOURCE_NOT_FOUND|(Blob|Container)NotFound|HTTP status 404\b"),
    ("store_unreachable", r"HTTP status 400\b"),  # an expired token, where the answer has no text
    ("changed", r"InvalidRange|HTTP status 416\b"),  # shorter than it was when it was opened
    ("unreadable", r"INVALID_ARGUMENT|HTTP status 4(05|12)\b"),
)
"""Error codes, and the words of S3, Azure and Google for refusals that a further attempt would meet too; first match.
Wrong or expired credentials say nothing about the object: its code is `store_unreachable`."""
ERROR_BODY = re.compile(rb"\s*(?:<\?xml[^>]*>)?\s*<Error>\s*<Code>(\w+)")
GOOGLE_MESSAGE = re.compile(r"google::cloud::Status\((\w+): .*?with a last message of (.*?) error_info=")
CHUNK = 2**24  # bytes copied at a time


def is_address(location: str | Path) -> bool:
    """Return whether a location is an address in an object store rather than a path."""
    return "://" in str(location) and not str(location).startswith("file://")


def make_absolute(location: str | Path) -> str:
    """Return the absolute form of a path, or of the path behind the `@` of a list; an address is returned unchanged.

    Raises:
        UsageError: it is empty, which would mean the current folder.
    """
    text = str(location)
    if not text:
        raise UsageError("a path is empty: name a file, a folder or an address")
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


def read_whole(location: str) -> bytes:
    """Return the bytes of a small file or object.

    Raises:
        OSError: the file does not exist or cannot be read.
        StorageError: the store refuses, or does not answer.
    """
    if not is_address(location):
        return Path(location).read_bytes()
    folder, name = split_address(location)
    return ObjectStore(folder).get(name)


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


def filesystem_of(address: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of an address, one for each bucket, and the path in it.

    Raises:
        UsageError: the address contains a key or a password.
        StorageError: the address is not one of an object store.
    """
    refuse_keys(address)
    base, mark, options = address.partition("?")
    scheme, _, rest = base.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme not in ("s3", "gs", "gcs") or not bucket:
        return _connect(address)
    filesystem, root = _connect(f"{scheme}://{bucket}{mark}{options}")
    return filesystem, f"{root}/{unquote(path).rstrip('/')}".rstrip("/")


@cache
def _connect(address: str) -> tuple[pafs.FileSystem, str]:
    scheme, mark = address.partition("://")[0], "&" if "?" in address else "?"
    limit = f"{mark}retry_limit_seconds={GOOGLE_S}" if scheme in ("gs", "gcs") and "retry_limit_" not in address else ""
    try:
        filesystem, path = pafs.FileSystem.from_uri(address + limit)
        if isinstance(filesystem, pafs.S3FileSystem):  # an address cannot say how often its client is to try
            make, (settings,) = filesystem.__reduce__()
            strategy = pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
            filesystem = make(settings | {"retry_strategy": strategy})
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"{address} is not an address of an object store ({first_line(error)}): check it") from error
    return filesystem, path


def read_into(file: pa.NativeFile, position: int, buffer: memoryview) -> int:
    """Read an object from a position into a buffer, and return the number of bytes.

    Raises:
        OSError: the store refuses or does not answer. The message names the store's own code: pyarrow may say
            INTERNAL_FAILURE or ACCESS_DENIED for an archived object, but leaves the store's answer in the buffer.
    """
    buffer[:256] = bytes(min(len(buffer), 256))
    file.seek(position)
    try:
        return int(file.readinto(buffer))
    except OSError as error:
        code = ERROR_BODY.match(buffer[:256])
        if code is None:
            raise
        raise OSError(f"{code[1].decode()}: {error}") from None


def _reason(error: Exception) -> str:
    """Return a store's message in one line, without the internals of Google's client."""
    google = GOOGLE_MESSAGE.search(str(error))
    return f"{google[1]}: {google[2]}"[:300] if google else first_line(error)


def _refusal_code(error: Exception, reason: str) -> str | None:
    """Return the error code of what a store refuses for good; None if another attempt may succeed."""
    code = next((code for code, words in REFUSALS if re.search(words, reason)), None)
    return code or ("access_denied" if isinstance(error, PermissionError) else None)


_last_answers: dict[str, float] = {}
"""Store → monotonic time of its last answer in this process; -inf after a whole series of attempts without one."""


def retrying(operation: Callable[[], Result], location: str, *, breaker: bool = False) -> Result:
    """Return the result of an operation on a store; repeat the operation while the store does not answer.

    Args:
        operation: reads or writes.
        location: address for the message.
        breaker: ask once only while the store is silent: it did not answer a whole series of attempts of this
            process, and nothing since. For one of many files, each of which would take its own minute.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the store refuses, or did not answer for about a minute.
    """
    base, options = split_options(location)
    store, began = "/".join(base.split("/", 3)[:3]) + options, time.monotonic()
    for pause in (*PAUSES, None):
        try:
            result = operation()
        except FileNotFoundError:
            _last_answers[store] = time.monotonic()
            raise
        except (OSError, pa.ArrowInvalid) as error:
            reason = _reason(error)
            code = _refusal_code(error, reason)
            if code or not isinstance(error, OSError):
                _last_answers[store] = time.monotonic()
            if not code and not isinstance(error, OSError):
                raise  # the content of a file is wrong; its store answered
            message = f"{location} cannot be read or written ({reason}): fix the cause and {RERUN}"
            if code:
                raise StorageError(message, final=True, code=code) from None
            if pause is None and _last_answers.get(store, 0) < began:
                _last_answers[store] = -inf
            if pause is None or (breaker and _last_answers.get(store) == -inf):
                raise StorageError(message) from None
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 (so that workers do not all ask at the same time)
        else:
            _last_answers[store] = time.monotonic()
            return result
    raise AssertionError


class StoreWatch:
    """Decides from the files that were asked for lately whether the object store is away.

    It is away when more than a share of the last files were not answered, without a break for some time, and some
    of them within that time. Fewer files than a tenth of the window count as a tenth, so that a few objects that
    never answer do not end a small job.

    Args:
        share: share of files without an answer from which on a store is away.
        window: number of the last files that count.
        seconds: for how long.
    """

    def __init__(self, share: float = 0.01, window: int = 10_000, seconds: float = 300) -> None:
        self._share, self._window, self._seconds = share, window, seconds
        self._counts: deque[tuple[int, int]] = deque()
        self._files = self._unanswered = 0
        self._since: float | None = None
        self._last = -inf

    def count(self, answered: int, unanswered: int, now: float) -> None:
        """Count the files of one report; `now` is in seconds, of any clock that does not run backwards."""
        self._counts.append((answered + unanswered, unanswered))
        self._files += answered + unanswered
        self._unanswered += unanswered
        while self._files - self._counts[0][0] >= self._window:
            files, silent = self._counts.popleft()
            self._files -= files
            self._unanswered -= silent
        if unanswered:
            self._last = now
        if self._unanswered <= self._share * max(self._files, self._window // 10):
            self._since = None
        elif self._since is None:
            self._since = now

    def is_away(self, now: float) -> bool:
        """Return whether the store is away."""
        return self._since is not None and now - self._since >= self._seconds and now - self._last <= self._seconds


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
            raise StorageError(message, final=True, code="gone") from None

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; a missing object is no error."""
        filesystem, root = filesystem_of(self.address)
        for name in names:
            try:
                retrying(partial(filesystem.delete_file, f"{root}/{name}"), self.address)
            except FileNotFoundError:
                continue
