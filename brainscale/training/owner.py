"""Own a run: only one command at a time trains in a run folder, on a disk or in an object store.

Each command writes a file of its own to `.owners/` before it looks for others there, so of two commands at least one
sees the other. An owner rewrites its file every few seconds. A file whose command has ended on this machine, or that
stays unchanged for a while, is left from a command that was killed, and is removed.
"""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from brainscale.errors import RERUN, BrainscaleError, OutputError
from brainscale.storage.local import make_folder
from brainscale.storage.remote import ObjectStore, join_address
from brainscale.storage.workspace import Workspace

OWNERS = ".owners"
BEAT_SECONDS = 5.0
"""Seconds between two writes of an owner's file."""
STALE_SECONDS = 30.0
"""Seconds without a change after which an owner on another machine is taken for dead."""
Claim = dict[str, Any]


@contextmanager
def own_run(run: Workspace, on_notice: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Own a run folder for the with-block; a block in the main thread is interrupted if another command takes over.

    Args:
        run: the run folder.
        on_notice: called with a message before a wait.

    Raises:
        OutputError: another command trains in this folder, or took it over.
    """
    owner = Owner(_claims_of(run), str(run), on_notice)
    owner.acquire()
    is_main = threading.current_thread() is threading.main_thread()
    beat = threading.Thread(target=owner.keep, args=(is_main,), daemon=True)
    beat.start()
    try:
        yield
    except BaseException:  # a library may turn the Ctrl-C of `keep` into an error of its own
        if not owner.is_lost:
            raise
    finally:
        owner.stop.set()
        beat.join()
        owner.release()
    if owner.is_lost:
        raise OutputError(f"{run} was taken over by another command, because this one stood still: {RERUN}")


def require_unowned(run: Workspace) -> None:
    """Check, without a trace, that no command of this machine trains in a run folder.

    Raises:
        OutputError: one does.
    """
    for claim in map(_parse_claim, _claims_of(run).read().values()):
        if claim.get("host") == _host() and not _has_ended(claim):
            raise _owned_by_other(claim, str(run))


class FolderOfClaims:
    """Claims as files in a folder of a disk.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, name: str, content: bytes) -> None:
        """Write a new claim."""
        (make_folder(self.folder) / name).write_bytes(content)

    def rewrite(self, name: str, content: bytes) -> None:
        """Write a claim again; never creates it.

        Raises:
            FileNotFoundError: another command removed it.
        """
        with (self.folder / name).open("r+b") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # so that other nodes of a shared disk see it

    def read(self) -> dict[str, bytes]:
        """Return name → content of all claims."""
        claims = {}
        for path in self.folder.glob("*.json"):
            with suppress(FileNotFoundError):
                claims[path.name] = path.read_bytes()
        return claims

    def remove(self, name: str) -> None:
        """Remove a claim, and the folder if it was the last one."""
        (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


class ObjectsOfClaims:
    """Claims as objects in a store.

    Args:
        store: their folder.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def create(self, name: str, content: bytes) -> None:
        """Write a new claim."""
        self.store.put(name, BytesIO(content))

    def rewrite(self, name: str, content: bytes) -> None:
        """Write a claim again.

        Raises:
            FileNotFoundError: another command removed it.
        """
        self.store.get(name)
        self.store.put(name, BytesIO(content))

    def read(self) -> dict[str, bytes]:
        """Return name → content of all claims."""
        claims = {}
        for name in self.store.names():
            with suppress(FileNotFoundError):
                claims[name] = self.store.get(name)
        return claims

    def remove(self, name: str) -> None:
        """Remove a claim."""
        self.store.remove([name])


def _claims_of(run: Workspace) -> FolderOfClaims | ObjectsOfClaims:
    if run.store is None:
        return FolderOfClaims(run.path / OWNERS)
    return ObjectsOfClaims(ObjectStore(join_address(run.store.address, OWNERS)))


@dataclass
class Owner:
    """One command that owns a run, or wants to.

    Attributes:
        claims: where all commands write their claims.
        run: the run folder, for messages.
        on_notice: called with a message before a wait.
        name: name of this command's claim.
        is_lost: whether another command took over.
        stop: set when the work is over.
    """

    claims: FolderOfClaims | ObjectsOfClaims
    run: str
    on_notice: Callable[[str], None]
    name: str = field(default_factory=lambda: f"{uuid.uuid4().hex}.json")
    is_lost: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    _beats: int = 0

    def _content(self, holds: bool) -> bytes:
        """Return the claim, of the same length each time so that a file can be rewritten in place."""
        self._beats += 1
        claim = {**_describe_process(os.getpid()), "beats": f"{self._beats:012}", "holds": int(holds)}
        return json.dumps(claim).encode()

    def acquire(self) -> None:
        """Become the owner.

        Raises:
            OutputError: another command is.
        """
        self.claims.create(self.name, self._content(holds=False))
        try:
            others = self._others()
            asking = [name for name, claim in others.items() if not claim.get("holds")]
            if asking and len(asking) == len(others) and self.name < min(asking):
                time.sleep(1)  # the other one began at the same moment, and gives way
                others = self._others()
            self._require_dead(others)
            self.claims.rewrite(self.name, self._content(holds=True))
        except FileNotFoundError:
            raise OutputError(f"another command has just begun to train in {self.run}: wait for its end") from None
        except BaseException:
            self.claims.remove(self.name)
            raise

    def _others(self) -> dict[str, Claim]:
        """Return the claims of other commands, without those of processes that have ended on this machine."""
        others = {}
        for name, content in self.claims.read().items():
            claim = _parse_claim(content)
            if name == self.name:
                continue
            if _has_ended(claim):
                self.claims.remove(name)
            else:
                others[name] = claim
        return others

    def _require_dead(self, others: dict[str, Claim]) -> None:
        """Wait until the other commands are known to be dead, and remove their claims.

        Raises:
            OutputError: one of them is alive.
        """
        strangers = {name: claim for name, claim in others.items() if claim.get("host") != _host()}
        if len(strangers) < len(others):
            self._refuse(next(claim for name, claim in others.items() if name not in strangers))
        if not strangers:
            return
        claim = next(iter(strangers.values()))
        self.on_notice(
            f"waiting {STALE_SECONDS:g} s to see whether {_describe_claim(claim)} still trains in {self.run}"
        )
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, STALE_SECONDS / 10))
            self.claims.rewrite(self.name, self._content(holds=False))  # so that others who wait see this command
            for name, claim in self._others().items():
                if strangers.get(name) != claim:
                    self._refuse(claim)
        for name in strangers:
            self.claims.remove(name)

    def _refuse(self, claim: Claim) -> None:
        raise _owned_by_other(claim, self.run)

    def keep(self, interrupt: bool) -> None:
        """Rewrite the claim until the work is over or another command took over.

        Args:
            interrupt: whether to interrupt the main thread then.
        """
        while not self.stop.wait(BEAT_SECONDS):
            try:
                self.claims.rewrite(self.name, self._content(holds=True))
                self.is_lost = any(claim.get("holds") for claim in self._others().values())
            except FileNotFoundError:
                self.is_lost = True
            except (OSError, BrainscaleError):  # a full disk, or a store that is away: the work itself will meet it
                continue
            if self.is_lost:
                if interrupt:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    def release(self) -> None:
        """Give the run up."""
        with suppress(OSError, BrainscaleError):
            self.claims.remove(self.name)


def _describe_process(pid: int) -> Claim:
    """Return what identifies a process of this machine among all processes of all machines."""
    return {"host": _host(), "name": socket.gethostname(), "pid": pid, "started": _start_time(pid)}


def _host() -> str:
    """Return what is the same for all processes that can see each other's process numbers, until the next boot."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; empty if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _has_ended(claim: Claim) -> bool:
    """Return whether a claim is of a process of this machine that no longer runs."""
    if claim.get("host") != _host() or not Path("/proc/self/stat").exists():
        return False
    return bool(_start_time(int(claim["pid"])) != claim["started"])


def _parse_claim(content: bytes) -> Claim:
    """Return a claim; an empty one for a file that is being written."""
    try:
        claim: Claim = json.loads(content)
    except ValueError:
        return {}
    return claim


def _owned_by_other(claim: Claim, run: str) -> OutputError:
    return OutputError(f"{_describe_claim(claim)} already trains in {run}: wait for its end, or choose a new --out")


def _describe_claim(claim: Claim) -> str:
    return f"another command (process {claim.get('pid', '?')} on {claim.get('name', 'another machine')})"
