"""Work on untrusted bytes in a child process, so that a file that crashes its decoder costs one file and not the job.

Parent and child exchange `messages` over a socket pair, and what a library prints goes nowhere. The child (`serving`)
gets a local file as an open descriptor, and asks its parent for the bytes of any other. It has none of its parent's
environment, and gives up files, network and processes (`confinement`) before it reads the first byte. It ends when
its parent does.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from brainscale.errors import SampleError
from brainscale.reading.answers import nonsense
from brainscale.reading.confinement import Confinement
from brainscale.reading.messages import Message, Stream, receive, send
from brainscale.reading.serving import ALIVE, END, READ, STREAMS
from brainscale.reading.spawning import BUFFER_NBYTES, take_child

MAX_ANSWER_NBYTES = 2**24  # of facts and of a blob: a child that was taken over must not exhaust its parent's memory
START_SECONDS = 120.0  # to load Python and numpy, on a machine where everything waits for everything


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

    def ask(self, facts: Mapping[str, Any], *streams: Stream) -> Iterator[Message]:
        """Send one request and pass on its answers as they come.

        Args:
            facts: the request; JSON-able.
            streams: the bytes to work on, seekable. The child reads from files itself, and by `read` of these else.

        Raises:
            SampleError: `decoder_crashed` or `timed_out`; the next request gets a new child.
        """
        complete = False
        try:
            link = self._connect()
            send(link, {**facts, STREAMS: len(streams)}, descriptors=_descriptors(streams))
            while END not in (answer := receive(self._answers, MAX_ANSWER_NBYTES))[0]:
                if (span := answer[0].get(READ)) is not None:
                    send(link, {}, _read_span(streams, span))
                elif ALIVE not in answer[0]:
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
            raise nonsense() from None
        finally:
            if not complete:
                self._end()

    @property
    def pid(self) -> int | None:
        """Return the number of the child's process, if there is one."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the child, if there is one; it holds nothing that could be lost."""
        if self._process is not None:
            self._process.kill()
        self._end()

    def start(self) -> Confinement:
        """Start the child, if there is none, and return how it is confined.

        Raises:
            SampleError: `decoder_crashed`: it does not start.
        """
        self._connect()
        return self._confinement

    def _connect(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it was killed between two questions, which is not the next file's fault
        if self._socket is None:
            try:
                self._socket = self._start_child()
                self._socket.settimeout(max(self._seconds, START_SECONDS))
                send(self._socket, {"seconds": self._seconds, "settings": self._settings})
                self._answers = self._socket.makefile("rb", BUFFER_NBYTES // 16)
                self._confinement = Confinement.from_json(receive(self._answers, MAX_ANSWER_NBYTES)[0])
            except (OSError, EOFError, ValueError):
                raise SampleError("decoder_crashed", f"the decoder does not start ({self._end()})") from None
            self._socket.settimeout(self._seconds)
        return self._socket

    def _start_child(self) -> socket.socket:
        child = take_child(self._module)
        self._process = child.process
        return child.link

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


def _descriptors(streams: Sequence[Stream]) -> list[int]:
    """Return the descriptors of streams that are files; none if one is another stream."""
    try:
        return [int(stream.fileno()) for stream in streams]
    except (AttributeError, OSError):  # io.UnsupportedOperation is one
        return []


def _read_span(streams: Sequence[Stream], span: Any) -> bytes:
    """Return the bytes of a stream that the child asks for; the stream's size for a negative offset.

    Raises:
        ValueError: no child asks for such a span.
    """
    if not (isinstance(span, list) and len(span) == 3 and all(isinstance(value, int) for value in span)):
        raise ValueError("no span")
    number, offset, nbytes = span
    if not (0 <= number < len(streams) and offset < 2**63 and nbytes >= 0):
        raise ValueError("no such span")
    stream = streams[number]
    if offset < 0:
        return int(stream.seek(0, os.SEEK_END)).to_bytes(8, "big")
    stream.seek(offset)
    data: bytes = stream.read(min(nbytes, MAX_ANSWER_NBYTES))
    return data
