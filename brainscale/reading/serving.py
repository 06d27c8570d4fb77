"""The child's side of a sandbox: answers to requests on untrusted bytes, within limits, until the parent is gone."""

import io
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from math import ceil
from pathlib import Path
from typing import Any

import brainscale
from brainscale.errors import SampleError
from brainscale.reading.confinement import confine
from brainscale.reading.messages import receive, receive_request, send

Handler = Callable[..., Iterator[tuple[Mapping[str, Any], bytes]]]
"""A request and the streams that it comes with → answers: facts and a blob."""
ALIVE_SECONDS = 1.0
"""Seconds of reading after which a child says that it still does."""
END, ALIVE, READ = "end", "alive", "read"
"""Facts of the child's own messages: that all was said, that it still reads, that it needs a span of a stream."""
STREAMS = "streams"
"""Fact of a request: how many streams it comes with."""


def serve(make_handler: Callable[[Mapping[str, Any]], Handler]) -> None:
    """Answer requests until the parent closes the socket whose number is `sys.argv[1]`: the child's main function.

    Args:
        make_handler: the first message's settings → a function from a request and its streams to answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    link = socket.socket(fileno=int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        first, _ = receive_request(link)
        handler = make_handler(first["settings"])
        send(link, confine([str(Path(brainscale.__file__).parent)]).to_json())
        report = _Reporter(link, first["seconds"])
        while True:
            request, descriptors = receive_request(link)
            report.renew()
            with ExitStack() as stack:
                streams = [
                    stack.enter_context(_Bytes(report, number, descriptors[number] if descriptors else None))
                    for number in range(request.pop(STREAMS))
                ]
                for facts, blob in handler(request, *streams):
                    report.send(facts, blob)
            report.send({END: True})


class _Reporter:
    """The child's end: each message that it sends gives it time for the next one."""

    def __init__(self, link: socket.socket, seconds: float) -> None:
        self._link, self._cpu_seconds = link, ceil(seconds)
        self._bytes = link.makefile("rb", 0)
        self._sent = self._renewed = 0.0

    def send(self, facts: Mapping[str, Any], blob: bytes | memoryview = b"") -> None:
        send(self._link, facts, blob)
        self.renew()

    def ask_for(self, stream: int, offset: int, nbytes: int) -> memoryview:
        self.send({READ: [stream, offset, nbytes]})
        return receive(self._bytes)[1]

    def say_alive(self) -> None:
        """Tell the parent now and then that the file is still being read."""
        if time.monotonic() - self._sent > ALIVE_SECONDS:
            self.send({ALIVE: True})

    def renew(self) -> None:
        """Let the kernel end this process if the next message costs too much CPU time, whatever its parent does."""
        self._sent = time.monotonic()
        if self._sent - self._renewed > ALIVE_SECONDS:
            self._renewed, hard = self._sent, resource.getrlimit(resource.RLIMIT_CPU)[1]
            soft = ceil(time.process_time() + ALIVE_SECONDS) + self._cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


class _Bytes(io.RawIOBase):
    """A stream of a request: the bytes of a file, or what the parent reads for the child."""

    def __init__(self, report: _Reporter, number: int, descriptor: int | None) -> None:
        self._report, self._number, self._descriptor, self._position = report, number, descriptor, 0
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
            data = self._report.ask_for(self._number, self._position, len(buffer))
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
        return int.from_bytes(self._report.ask_for(self._number, -1, 0), "big")
