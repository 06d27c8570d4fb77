"""A folder on a disk or in an object store, with the same few operations: each file is written whole or not at all."""

import errno
import fnmatch
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs as pafs

from brainscale.errors import OutputError
from brainscale.storage.local import describe_unwritable, make_folder, remove_abandoned, replacing
from brainscale.storage.remote import ObjectStore, filesystem_of, is_address, join_address, retrying


@dataclass(frozen=True)
class Folder:
    """A folder by its absolute path or its address.

    Attributes:
        location: the path or address.
    """

    location: str

    def __str__(self) -> str:
        return self.location

    @property
    def is_remote(self) -> bool:
        """Whether the folder is in an object store."""
        return is_address(self.location)

    def locate(self, name: str) -> str:
        """Return the path or address of a file in the folder."""
        return join_address(self.location, name) if self.is_remote else str(Path(self.location, name))

    def create(self) -> None:
        """Create the folder; an object store has none to create.

        Raises:
            OutputError: it cannot be created or written.
        """
        if not self.is_remote:
            make_folder(self.location)

    def list_names(self, pattern: str = "*", below: str = "") -> list[str]:
        """Return the sorted names of the files directly in the folder, or in a folder inside it, that match.

        Args:
            pattern: of the names.
            below: name of a folder inside this one.
        """
        return sorted(name for name in self._names(below) if fnmatch.fnmatchcase(name, pattern))

    def _names(self, below: str) -> list[str]:
        if not self.is_remote:
            try:
                with os.scandir(Path(self.location, below)) as entries:
                    return [entry.name for entry in entries]
            except FileNotFoundError:
                return []
        filesystem, root = filesystem_of(self.location)
        selector = pafs.FileSelector(f"{root}/{below}".rstrip("/"), allow_not_found=True)
        return [info.base_name for info in retrying(lambda: filesystem.get_file_info(selector), self.location)]

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None if there is none."""
        try:
            if self.is_remote:
                return ObjectStore(self.location).get(name)
            return Path(self.location, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{self.locate(name)} cannot be read ({error.strerror}): fix the cause") from None

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file whole or not at all; another of the same name is replaced.

        Raises:
            OutputError: the file cannot be written, or the folder is gone.
            StorageError: the store refuses, or does not answer.
        """
        if self.is_remote:
            ObjectStore(self.location).put(name, io.BytesIO(data))
            return
        path = Path(self.location, name)
        if not Path(self.location).is_dir():
            raise OutputError(describe_unwritable(self.location, FileNotFoundError(errno.ENOENT, "")))
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as aside:
            aside.write_bytes(data)

    def remove(self, name: str) -> None:
        """Delete a file; a missing one is no error."""
        if self.is_remote:
            ObjectStore(self.location).remove([name])
        else:
            Path(self.location, name).unlink(missing_ok=True)

    @contextmanager
    def open(self, name: str) -> Iterator[pa.NativeFile]:
        """Open a file to read parts of it."""
        if self.is_remote:
            filesystem, root = filesystem_of(self.location)
            source = retrying(lambda: filesystem.open_input_file(f"{root}/{name}"), self.location)
        else:
            source = pa.memory_map(str(Path(self.location, name)))
        with source:
            yield source

    def remove_abandoned(self) -> None:
        """Delete what processes of this machine left half-written when they were killed."""
        if not self.is_remote:
            for folder in (Path(self.location), *Path(self.location).glob("_*/")):
                remove_abandoned(folder)
