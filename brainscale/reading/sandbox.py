"""Work on untrusted bytes in a child process, so that a codec's crash costs one file and not the job.

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
"""Each file needs the same large buffers again: glibc is not to give them back to the system in between."""
_LENGTHS = struct.Struct(">IQ")  # of the facts and of the blob, bytes
BUFFER = 2**20  # bytes under way: a typical file and its answer, so that neither side waits in the middle
_END: dict[str, Any] = {"end": True}


class Sandbox:
    """A process that runs `python -m MODULE`, which calls `serve`; started when needed, and again after a crash.

    Args:
        module: what to run.
        settings: the first message; JSON-able, and kept off the command line.
        seconds: to wait for each answer.
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
        done = False
        try:
            link = self._connected()
            _send(link, facts, blob)
            while (answer := _receive(link))[0] != _END:
                yield answer
            done = True
        except TimeoutError:
            raise SampleError("timed_out", f"decoding took more than {self._seconds:g} seconds") from None
        except (OSError, EOFError):
            raise SampleError("decoder_crashed", f"the decoder died of it ({self._end()})") from None
        finally:
            if not done:
                self._end()

    def close(self) -> None:
        """End the child, if there is one."""
        self._end()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            self._socket.settimeout(self._seconds)
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                    [sys.executable, "-m", self._module, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, **KEEP_MEMORY, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                )
            _send(self._socket, self._settings, b"")
        return self._socket

    def _end(self) -> str:
        """Kill the child and say what it died of."""
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


def serve(handler_of: Callable[[Mapping[str, Any]], Handler]) -> None:
    """What the child runs: answer requests until the parent closes the socket named in `sys.argv[1]`.

    Args:
        handler_of: the first message's settings → a function from a request to its answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    link = socket.socket(fileno=int(sys.argv[1]))
    with suppress(EOFError, OSError):
        handler = handler_of(_receive(link)[0])
        while True:
            for facts, blob in handler(*_receive(link)):
                _send(link, facts, blob)
            _send(link, _END, b"")


def bound_memory(mib: int) -> None:
    """Let this process grow by so much and no more: an allocation beyond fails instead of hurting the machine."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + mib * 2**20, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _send(link: socket.socket, facts: Mapping[str, Any], blob: bytes | memoryview) -> None:
    text = json.dumps(facts).encode()
    link.sendall(_LENGTHS.pack(len(text), len(blob)) + text)
    if len(blob):
        link.sendall(blob)


def _receive(link: socket.socket) -> Message:
    text, blob = _LENGTHS.unpack(_exactly(link, _LENGTHS.size))
    return json.loads(bytes(_exactly(link, text))), _exactly(link, blob)


def _exactly(link: socket.socket, count: int) -> memoryview:
    view = memoryview(bytearray(count))
    have = 0
    while have < count:
        got = link.recv_into(view[have:])
        if not got:
            raise EOFError
        have += got
    return view
