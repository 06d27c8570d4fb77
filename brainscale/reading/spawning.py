"""Start a sandbox's child: an empty environment, the same Python and libraries.

It loads its libraries beside its parent, so `start_spare` starts one before the first file is known.
"""

import atexit
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import brainscale

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of formats
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Environment in which glibc keeps freed memory: each file needs the same large buffers again."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME")
"""Variables without which some installations of Python do not start."""
BUFFER_NBYTES = 2**20  # in transit: a typical answer, so that neither side waits in the middle


@dataclass(frozen=True)
class Child:
    """A process, and this side of the socket pair that leads to it."""

    process: "subprocess.Popen[bytes]"
    link: socket.socket


_spares: dict[str, Child] = {}


def start_spare(module: str = DECODER) -> None:
    """Start the child that `take_child` will return for a module; one that nobody takes ends with this process."""
    if module not in _spares:
        try:
            _spares[module] = _start(module)
        except OSError:  # whoever needs a child says so
            return
        atexit.register(end_spare, module)


def take_child(module: str) -> Child:
    """Return a child that runs `python -m MODULE`.

    Raises:
        OSError: it does not start.
    """
    spare = _spares.pop(module, None)
    if spare is not None and spare.process.poll() is None:
        return spare
    if spare is not None:
        spare.link.close()
    return _start(module)


def end_spare(module: str = DECODER) -> None:
    """End the child that nobody took, where none will be."""
    spare = _spares.pop(module, None)
    if spare is not None:
        spare.link.close()
        spare.process.kill()
        spare.process.wait()


def _start(module: str) -> Child:
    parent_socket, child_socket = socket.socketpair()
    for end in (parent_socket, child_socket):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_NBYTES)
    with child_socket:
        process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
            [sys.executable, "-P", "-s", "-m", module, str(child_socket.fileno())],
            pass_fds=[child_socket.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
        )
    return Child(process, parent_socket)


def _environment() -> dict[str, str]:
    """Return what a child needs to find Python's libraries, ours among them, and nothing else of this environment.

    The working folder is not on its path: a folder `numpy` of the user's would be taken for the library.
    """
    root = str(Path(brainscale.__file__).absolute().parents[1])
    folders = [folder for folder in sys.path if Path(folder).is_absolute() and not _is_working_folder(folder)]
    if root not in folders:
        folders.insert(0, root)
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    python = {"PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return {**inherited, **KEEP_MEMORY, **ONE_THREAD, **python}


def _is_working_folder(folder: str) -> bool:
    try:
        return Path(folder).samefile(".")
    except OSError:  # one of them was deleted, or never was
        return False
