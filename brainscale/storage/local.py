"""Local output folders and files: written whole or not at all, and marked when they are complete."""

import errno
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from brainscale.errors import RERUN, FormatError, OutputError, describe_remedy
from brainscale.hashing import fingerprint
from brainscale.schema import FORMATS
from brainscale.version import __version__

SUCCESS = "_SUCCESS.json"
"""Name of the file that marks a folder as complete. It is written last."""

UNWRITABLE_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the operating system that can only come from writing."""


class Facts(dict[str, Any]):
    """What a `_SUCCESS.json` says; one that lacks a fact is damaged."""

    def __init__(self, facts: Mapping[str, Any], folder: object) -> None:
        super().__init__(facts)
        self.folder = folder

    def __missing__(self, name: str) -> Any:
        reason = "it is damaged, or another command's"
        raise OutputError(f"{self.folder}/{SUCCESS} does not say '{name}' ({reason}): choose another folder")


def write_success(folder: Path, facts: Mapping[str, Any], kind: str | None = None) -> None:
    """Mark a folder as complete.

    Args:
        folder: the folder; everything else in it is written.
        facts: what the file says, besides the version.
        kind: noun for what the folder holds, such as `run`; no other command writes to it then.
    """
    own = {} if kind is None else {"kind": kind}
    write_json(folder / SUCCESS, {**own, **facts, "brainscale": __version__, "format": FORMATS["folder"]})


def read_success(folder: Path) -> dict[str, Any] | None:
    """Return what `_SUCCESS.json` says, or None for a folder that is not complete.

    Raises:
        OutputError: the file cannot be read.
        FormatError: another version of brainscale wrote the folder.
    """
    try:
        data = (folder / SUCCESS).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(f"{folder / SUCCESS} cannot be read ({error}): choose another folder") from None
    return parse_success(data, folder)


def parse_success(data: bytes, folder: object) -> dict[str, Any]:
    """Return what the bytes of a `_SUCCESS.json` say.

    Args:
        data: the bytes.
        folder: for the message.

    Raises:
        OutputError: they are damaged.
        FormatError: another version of brainscale wrote the folder.
    """
    try:
        facts = Facts(json.loads(data), folder)
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"{folder}/{SUCCESS} cannot be read ({error}): remove the folder, or choose another"
        ) from None
    if facts.get("format") != FORMATS["folder"]:
        raise FormatError(
            f"{folder} was written by another version of brainscale ({facts.get('brainscale', 'unknown')}): choose a "
            "new folder, or use that version"
        )
    return facts


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as aside:
        aside.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; the file replaces `path` when the with-block ends without an error.

    A reader of `path` sees the old file or the new one, never a part of it, even if this process or the machine dies.

    Raises:
        OutputError: the file cannot be written.
    """
    aside = _aside(path)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the bytes
        aside.replace(path)
    except OSError as error:
        raise OutputError(describe_unwritable(path, error)) from error
    finally:
        with suppress(OSError):  # a file system that is read-only refuses even to delete what is not there
            aside.unlink(missing_ok=True)


@contextmanager
def replacing_files(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield a folder to write to; its files replace those of `folder` when the with-block ends without an error.

    Until then the folder stays as it was, complete or not. `_SUCCESS.json` is replaced last.

    Args:
        folder: an existing folder.
        names: files and folders of `folder` that are removed where there is no new one; others stay.

    Raises:
        OutputError: a file cannot be written.
    """
    remove_abandoned(folder)
    new, old = _aside(folder / "new"), _aside(folder / "old")
    try:
        new.mkdir()
        yield new
        old.mkdir()
        _swap(folder, new, old, names)
        shutil.rmtree(old, ignore_errors=True)
    except OutputError as error:
        raise OutputError(str(error).replace(str(new), str(folder))) from error
    except OSError as error:
        raise OutputError(describe_unwritable(folder, error)) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        with suppress(OSError):  # where all was put back, it is empty
            old.rmdir()


def _swap(folder: Path, new: Path, old: Path, names: Iterable[str]) -> None:
    """Move the named files of a folder to `old`, and those of `new` in their place; put all back if one cannot be."""
    leaving = [(folder / name, old / name) for name in [SUCCESS, *names] if os.path.lexists(folder / name)]
    coming = sorted(((path, folder / path.name) for path in new.iterdir()), key=lambda pair: pair[0].name == SUCCESS)
    begun: list[tuple[Path, Path]] = []
    try:
        for pair in (*leaving, *coming):
            begun.append(pair)
            pair[0].rename(pair[1])
    except BaseException:  # Ctrl-C too
        for source, target in reversed(begun):
            if not os.path.lexists(source):
                target.rename(source)
        raise


def _aside(path: Path) -> Path:
    """Return a new name beside a path, by which `remove_abandoned` knows who made it."""
    return path.with_name(f".{path.name}.{_place()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def describe_unwritable(place: object, error: OSError) -> str:
    """Return a message: what cannot be written, why, and what to do.

    Args:
        place: path of a file or folder.
        error: the error of the operating system, or of a library that keeps its number only.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{place} cannot be written ({reason}): {describe_remedy(error) or f'fix the cause and {RERUN}'}"


@contextmanager
def naming_folder(out: str | Path) -> Iterator[None]:
    """Name the output folder in an error of the with-block that says that nothing can be written, but not where."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE_ERRNO or error.filename is not None:
            raise
        raise OutputError(describe_unwritable(out, error)) from error


@cache
def _place() -> str:
    """Return a name for where process numbers mean the same: this machine, or this container on it."""
    with suppress(OSError):
        return fingerprint([platform.node(), Path("/proc/self/ns/pid").stat().st_ino])[:8]
    return fingerprint([platform.node()])[:8]


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files and folders that processes of this machine left in a folder when they were killed."""
    for path in folder.glob(f".*.{_place()}-*-*.tmp"):
        process = path.name.rsplit("-", 2)[1]
        if process.isdigit() and not _is_alive(int(process)):
            _remove(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def make_folder(out: str | Path) -> Path:
    """Create a folder if it does not exist, and return its absolute path.

    Raises:
        OutputError: `out` is an address or a file, or it cannot be created or written.
    """
    _refuse_address(out)
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{out} is a file, not a folder: give another path") from None
    except OSError as error:
        raise OutputError(f"{out} cannot be created ({error.strerror}): give another path") from None
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{out} cannot be written (permission denied): give another path")
    return folder


def _refuse_address(out: str | Path) -> None:
    if "://" in str(out):
        raise OutputError(f"{out} is an address, but this output must be a local or mounted folder: give a path")


def require_writable(out: str | Path) -> None:
    """Check that a folder can be created and written, without creating it.

    Raises:
        OutputError: `out` is an address or a file, or lies in a file, or its folder cannot be written.
    """
    _refuse_address(out)
    folder = Path(out).absolute()
    if folder.is_dir():
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{out} cannot be written (permission denied): give another path")
        return
    above = nearest_folder(folder)
    if above.exists() and not above.is_dir():
        kind = f"{out} is a file" if above == folder else f"{above} is a file"
        raise OutputError(f"{kind}, not a folder: give another path")
    if not os.access(above, os.W_OK):
        raise OutputError(f"{out} cannot be created (permission denied in {above}): give another path")


def nearest_folder(path: Path) -> Path:
    """Return the path if it exists, otherwise its nearest existing parent."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def require_space(out: str | Path, nbytes: int) -> None:
    """Check that the disk of a folder, which need not exist, has room for so many bytes.

    Raises:
        OutputError: it has less.
    """
    free = shutil.disk_usage(nearest_folder(Path(out).absolute())).free
    if free < nbytes:
        mib = 2**20
        raise OutputError(
            f"{out} needs at least {-(-nbytes // mib):,} MiB, and its disk has {free // mib:,} MiB free: "
            "make room, or give another path"
        )


@contextmanager
def removing_if_empty(out: str | Path) -> Iterator[None]:
    """Remove the folders that a failed with-block created and left empty.

    Args:
        out: the output folder; nothing is done for an address.
    """
    folder = Path(out).absolute()
    missing = [] if "://" in str(out) else [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first that is not empty
            for path in missing:
                path.rmdir()
        raise


def refuse_other_files(folder: Path, own_names: set[str], what: str) -> None:
    """Refuse a folder that is not empty and holds none of a command's own files.

    Args:
        folder: an output folder.
        own_names: names of files, of which at least one is in every folder that the command has written to.
        what: noun for the message, such as `run`.

    Raises:
        OutputError: the folder holds other files only.
    """
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")}
    if names and not names & own_names:
        raise OutputError(f"{folder} holds other files and no {what}: choose a new folder")
