"""Work on untrusted bytes in a child process, so that a file that crashes its decoder costs one file and not the job.

Parent and child talk over a socket pair in messages of JSON facts and a blob: nothing is unpickled on either side,
and what a library prints goes nowhere. The child gets a local file as an open descriptor, and asks its parent for the
bytes of any other. It has none of its parent's environment, and gives up files, network and processes (`confinement`)
before it reads the first byte. It ends when its parent does.
"""

import io
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any

import brainscale
from brainscale.errors import SampleError
from brainscale.reading.confinement import Confinement, confine

Message = tuple[dict[str, Any], memoryview]
Stream = Any
"""Bytes to read: a file, or anything with `seek` and `read`."""
Handler = Callable[[Mapping[str, Any], io.RawIOBase], Iterator[tuple[Mapping[str, Any], bytes]]]

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Environment in which glibc keeps freed memory: each file needs the same large buffers again."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME")
"""Variables without which some installations of Python do not start."""
_LENGTHS = struct.Struct(">IQ")  # of the facts and of the blob, bytes
BUFFER_NBYTES = 2**20  # in transit: a typical answer, so that neither side waits in the middle
MAX_ANSWER_NBYTES = 2**24  # of facts and of a blob: a child that was taken over must not exhaust its parent's memory
START_SECONDS = 120.0  # to load the libraries, on a machine where everything waits for everything
ALIVE_SECONDS = 1.0
"""Seconds of reading after which a child says that it still does."""
_END, _ALIVE = "end", "alive"


class Sandbox:
    """A process that runs `python -m MODULE`, which calls `serve`; started when needed, and again after a crash.

    Args:
        module: what to run.
        settings: the first message; JSON-able. Secrets are in it, and neither on the command line nor in the
            environment, where other processes could see them.
        seconds: longest wait for an answer, and most CPU time that one may cost.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], seconds: float) -> None:
        self._module, self._settings, self._seconds = module, settings, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._answers: Stream = None  # what the socket gives, buffered
        self._confinement = Confinement()

    def ask(self, facts: Mapping[str, Any], stream: Stream) -> Iterator[Message]:
        """Send one request and pass on its answers as they come.

        Args:
            facts: the request; JSON-able.
            stream: the bytes to work on, seekable. The child reads from a file itself, and by `stream.read` else.

        Raises:
            SampleError: `decoder_crashed` or `timed_out`; the next request gets a new child.
        """
        complete = False
        try:
            link = self._connect()
            _send(link, facts, descriptors=_descriptors(stream))
            while _END not in (answer := _receive(self._answers, MAX_ANSWER_NBYTES))[0]:
                if (span := answer[0].get("read")) is not None:
                    _send(link, {}, _read_span(stream, span))
                elif _ALIVE not in answer[0]:
                    yield answer
            complete = True
        except TimeoutError:
            raise self._too_slow() from None
        except (EOFError, ConnectionError):  # of the child; a store has errors of its own
            ending = self._end()
            if ending == "SIGXCPU":
                raise self._too_slow() from None
            raise SampleError("decoder_crashed", f"the file crashed its decoder ({ending})") from None
        except (ValueError, RecursionError):
            raise SampleError("decoder_crashed", "the decoder's answer makes no sense") from None
        finally:
            if not complete:
                self._end()

    def close(self) -> None:
        """End the child, if there is one."""
        self._end()

    def start(self) -> Confinement:
        """Start the child, if there is none, and return how it is confined.

        Raises:
            SampleError: `decoder_crashed`: it does not start.
        """
        self._connect()
        return self._confinement

    def _connect(self) -> socket.socket:
        if self._socket is None:
            try:
                self._socket = self._start_child()
                self._socket.settimeout(max(self._seconds, START_SECONDS))
                _send(self._socket, {"seconds": self._seconds, "settings": self._settings})
                self._answers = self._socket.makefile("rb", BUFFER_NBYTES // 16)
                self._confinement = Confinement.from_json(_receive(self._answers, MAX_ANSWER_NBYTES)[0])
            except (OSError, EOFError, ValueError):
                raise SampleError("decoder_crashed", f"the decoder does not start ({self._end()})") from None
            self._socket.settimeout(self._seconds)
        return self._socket

    def _start_child(self) -> socket.socket:
        parent_socket, child_socket = socket.socketpair()
        for end in (parent_socket, child_socket):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_NBYTES)
        with child_socket:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [sys.executable, "-P", "-s", "-m", self._module, str(child_socket.fileno())],
                pass_fds=[child_socket.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
            )
        return parent_socket

    def _too_slow(self) -> SampleError:
        return SampleError("timed_out", f"decoding took more than limits.seconds = {self._seconds:g}")

    def _end(self) -> str:
        """Kill the child and say how it ended."""
        process, link = self._process, self._socket
        self._process = self._socket = None
        if self._answers is not None:
            self._answers.close()
            self._answers = None
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
        make_handler: the first message's settings → a function from a request and its bytes to answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    link = socket.socket(fileno=int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        first, _ = _receive_request(link)
        handler = make_handler(first["settings"])
        _send(link, confine([str(Path(brainscale.__file__).parent)]).to_json())
        report = _Reporter(link, first["seconds"])
        while True:
            request, descriptor = _receive_request(link)
            with _Bytes(report, descriptor) as stream:
                for facts, blob in handler(request, stream):
                    report.send(facts, blob)
            report.send({_END: True})


def limit_memory(mib: int) -> None:
    """Limit how much this process may still grow: an allocation beyond fails and does not exhaust the machine."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123
        nbytes = int(statm.read().split()[0]) * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))


class _Reporter:
    """The child's end: each message that it sends gives it time for the next one."""

    def __init__(self, link: socket.socket, seconds: float) -> None:
        self._link, self._cpu_seconds = link, ceil(seconds)
        self._bytes = link.makefile("rb", 0)
        self._sent = self._renewed = 0.0

    def send(self, facts: Mapping[str, Any], blob: bytes | memoryview = b"") -> None:
        _send(self._link, facts, blob)
        self._renew()

    def ask_for(self, offset: int, nbytes: int) -> memoryview:
        self.send({"read": [offset, nbytes]})
        return _receive(self._bytes)[1]

    def say_alive(self) -> None:
        """Tell the parent now and then that the file is still being read."""
        if time.monotonic() - self._sent > ALIVE_SECONDS:
            self.send({_ALIVE: True})

    def _renew(self) -> None:
        """Let the kernel end this process if the next message costs too much CPU time, whatever its parent does."""
        self._sent = time.monotonic()
        if self._sent - self._renewed > ALIVE_SECONDS:
            self._renewed, hard = self._sent, resource.getrlimit(resource.RLIMIT_CPU)[1]
            soft = ceil(time.process_time() + ALIVE_SECONDS) + self._cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


class _Bytes(io.RawIOBase):
    """The bytes of a request: those of a file, or what the parent reads for the child."""

    def __init__(self, report: _Reporter, descriptor: int | None) -> None:
        self._report, self._descriptor, self._position = report, descriptor, 0
        self._size: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self._size = self._find_size() if self._size is None else self._size
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence, self._size or 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._report.say_alive()
        if self._descriptor is None:
            data = self._report.ask_for(self._position, len(buffer))
            count = len(data)
            buffer[:count] = data
        else:
            try:
                count = os.preadv(self._descriptor, [buffer], self._position)
            except OSError as error:
                text = f"the file cannot be read ({type(error).__name__})"
                raise SampleError("unreadable", text) from None
        self._position += count
        return count

    def close(self) -> None:
        if self._descriptor is not None and not self.closed:
            os.close(self._descriptor)
        super().close()

    def _find_size(self) -> int:
        if self._descriptor is not None:
            return os.fstat(self._descriptor).st_size
        return int.from_bytes(self._report.ask_for(-1, 0), "big")


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


def _descriptors(stream: Stream) -> list[int]:
    """Return the descriptor of a stream that is a file; none for another stream."""
    try:
        return [int(stream.fileno())]
    except (AttributeError, OSError):  # io.UnsupportedOperation is one
        return []


def _read_span(stream: Stream, span: tuple[int, int]) -> bytes:
    """Return the bytes that the child asks for; the size of the stream for a negative offset."""
    offset, nbytes = (int(number) for number in span)
    if offset < 0:
        return int(stream.seek(0, os.SEEK_END)).to_bytes(8, "big")
    stream.seek(offset)
    data: bytes = stream.read(min(nbytes, MAX_ANSWER_NBYTES))
    return data


def _send(
    link: socket.socket, facts: Mapping[str, Any], blob: bytes | memoryview = b"", descriptors: Sequence[int] = ()
) -> None:
    text = json.dumps(facts).encode()
    message = _LENGTHS.pack(len(text), len(blob)) + text
    if descriptors:
        message = message[socket.send_fds(link, [message], descriptors) :]
    link.sendall(message)
    if len(blob):
        link.sendall(blob)


def _receive_request(link: socket.socket) -> tuple[dict[str, Any], int | None]:
    """Return the facts of a request, and the descriptor of its file if there is one."""
    lengths, descriptors, _, _ = socket.recv_fds(link, _LENGTHS.size, 1)
    if len(lengths) < _LENGTHS.size:
        raise EOFError
    with link.makefile("rb", 0) as reader:
        facts = json.loads(bytes(_receive_exactly(reader, _LENGTHS.unpack(lengths)[0])))
    return facts, descriptors[0] if descriptors else None


def _receive(reader: Stream, max_nbytes: int | None = None) -> Message:
    lengths = _LENGTHS.unpack(_receive_exactly(reader, _LENGTHS.size))
    if max_nbytes is not None and max(lengths) > max_nbytes:
        raise ValueError("too long")
    text, blob = (_receive_exactly(reader, nbytes) for nbytes in lengths)
    facts = json.loads(bytes(text))
    if not isinstance(facts, dict):
        raise ValueError("no object")  # noqa: TRY004 (it is a wrong value of the child's)
    return facts, blob


def _receive_exactly(reader: Stream, nbytes: int) -> memoryview:
    view = memoryview(bytearray(nbytes))
    received = 0
    while received < nbytes:
        count = reader.readinto(view[received:])
        if not count:
            raise EOFError
        received += count
    return view
