"""Work on untrusted bytes in a child process, so that the crash of a codec costs one file and not the job.

Parent and child talk over a socket pair in messages of JSON facts and a blob: nothing is unpickled on either
side, and what a library prints goes nowhere. The child ends when its parent does.
"""

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from brainscale.errors import SampleError

Message = tuple[dict[str, Any], memoryview]
Handler = Callable[[Mapping[str, Any], memoryview], Iterator[tuple[Mapping[str, Any], bytes]]]

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Environment in which glibc keeps freed memory: each file needs the same large buffers again."""
_LENGTHS = struct.Struct(">IQ")  # of the facts and of the blob, bytes
BUFFER_NBYTES = 2**20  # in transit: a typical file and its answer, so that neither side waits in the middle
_END: dict[str, Any] = {"end": True}


class Sandbox:
    """A process that runs `python -m MODULE`, which calls `serve`; started when needed, and again after a crash.

    Args:
        module: what to run.
        settings: the first message; JSON-able, and kept off the command line.
        seconds: longest wait for an answer.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], seconds: float) -> None:
        self._module, self._settings, self._seconds = module, settings, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def ask(self, facts: Mapping[str, Any], blob: bytes) -> Iterator[Message]:
        """Send one request and pass on its answers as they come.

        Raises:
            SampleError: `decoder_crashed` or `timed_out`; the next request gets a new child.
        """
        complete = False
        try:
            link = self._connect()
            _send(link, facts, blob)
            while (answer := _receive(link))[0] != _END:
                yield answer
            complete = True
        except TimeoutError:
            text = f"decoding took more than limits.seconds = {self._seconds:g}"
            raise SampleError("timed_out", text) from None
        except (OSError, EOFError):
            raise SampleError("decoder_crashed", f"the file crashed its decoder ({self._end()})") from None
        finally:
            if not complete:
                self._end()

    @property
    def pid(self) -> int | None:
        """Return the number of the child's process, if there is one."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the child, if there is one."""
        self._end()

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket, child_socket = socket.socketpair()
            self._socket.settimeout(self._seconds)
            for end in (self._socket, child_socket):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_NBYTES)
            with child_socket:
                self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                    [sys.executable, "-m", self._module, str(child_socket.fileno())],
                    pass_fds=[child_socket.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **KEEP_MEMORY, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                )
            _send(self._socket, self._settings, b"")
        return self._socket

    def _end(self) -> str:
        """Kill the child and say how it ended."""
        process, link = self._process, self._socket
        self._process = self._socket = None
        if link is not None:
            link.close()
        if process is None:
            return "it had ended already"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)  # one that crashed is ending; one that waits sees its socket closed
        process.kill()
        status = process.wait()
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def serve(make_handler: Callable[[Mapping[str, Any]], Handler]) -> None:
    """Answer requests until the parent closes the socket whose number is `sys.argv[1]`: the child's main function.

    Args:
        make_handler: the first message's settings → a function from a request to its answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    link = socket.socket(fileno=int(sys.argv[1]))
    with suppress(EOFError, OSError):
        handler = make_handler(_receive(link)[0])
        while True:
            for facts, blob in handler(*_receive(link)):
                _send(link, facts, blob)
            _send(link, _END, b"")


def limit_memory(mib: int) -> None:
    """Limit how much this process may still grow: an allocation beyond fails and does not exhaust the machine."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        nbytes = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (nbytes + mib * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _send(link: socket.socket, facts: Mapping[str, Any], blob: bytes | memoryview) -> None:
    text = json.dumps(facts).encode()
    link.sendall(_LENGTHS.pack(len(text), len(blob)) + text)
    if len(blob):
        link.sendall(blob)


def _receive(link: socket.socket) -> Message:
    text_nbytes, blob_nbytes = _LENGTHS.unpack(_receive_exactly(link, _LENGTHS.size))
    return json.loads(bytes(_receive_exactly(link, text_nbytes))), _receive_exactly(link, blob_nbytes)


def _receive_exactly(link: socket.socket, nbytes: int) -> memoryview:
    view = memoryview(bytearray(nbytes))
    received = 0
    while received < nbytes:
        count = link.recv_into(view[received:])
        if not count:
            raise EOFError
        received += count
    return view
