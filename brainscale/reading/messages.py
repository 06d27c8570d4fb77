"""Messages between a sandbox and its child: JSON facts and a blob, over a socket pair. Nothing is ever unpickled."""

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

Stream = Any
"""Something to read bytes from: a file, a socket's file, or anything with `seek` and `read`."""
Message = tuple[dict[str, Any], memoryview]
MAX_STREAMS = 8
"""Files that a request comes with, at most."""
COPIED_NBYTES = 2**17
"""Size up to which a blob is sent together with its facts."""
_LENGTHS = struct.Struct(">IQ")  # of the facts and of the blob, bytes


def send(
    link: socket.socket, facts: Mapping[str, Any], blob: bytes | memoryview = b"", descriptors: Sequence[int] = ()
) -> None:
    """Send facts and a blob, and the descriptors of open files with them."""
    text = json.dumps(facts).encode()
    message = _LENGTHS.pack(len(text), len(blob)) + text
    if len(blob) <= COPIED_NBYTES:  # copying costs less than another call of the kernel
        message, blob = message + bytes(blob), b""
    if descriptors:
        message = message[socket.send_fds(link, [message], descriptors) :]
    link.sendall(message)
    if len(blob):
        link.sendall(blob)


def receive_request(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the facts of a request, and the descriptors of its files if they are files of this machine."""
    lengths, descriptors, _, _ = socket.recv_fds(link, _LENGTHS.size, MAX_STREAMS)
    if len(lengths) < _LENGTHS.size:
        raise EOFError
    with link.makefile("rb", 0) as reader:
        return json.loads(bytes(_receive_exactly(reader, _LENGTHS.unpack(lengths)[0]))), descriptors


def receive(reader: Stream, max_nbytes: int | None = None) -> Message:
    """Receive facts and a blob.

    Args:
        reader: the socket as a file.
        max_nbytes: longest facts and blob to accept.

    Raises:
        EOFError: the other side is gone.
        ValueError: the message is too long, or no message.
    """
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
