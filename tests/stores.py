"""An S3-speaking server on loopback, and a gate before it that a test can shut."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3

ERROR = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
BUSY = f"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: {len(ERROR)}\r\n\r\n{ERROR}".encode()


class Gate:
    """Passes requests on to a server while it is open, and answers 503 to each while it is shut.

    Attributes:
        is_open: whether it is.
        busy: numbers of the requests, from 0, that an open gate refuses too.
        asked: requests and further pieces of them that came.
        refused: of these, how many were.
    """

    def __init__(self, port: int) -> None:
        self.is_open, self.busy, self.asked, self.refused = True, range(0), 0, 0
        self._to = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._to)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            while data := client.recv(2**16):
                if self._refuses():
                    client.sendall(BUSY)
                    break
                server.sendall(data)
            for end in (server, client):
                end.shutdown(socket.SHUT_RDWR)

    def _refuses(self) -> bool:
        number, self.asked = self.asked, self.asked + 1
        shut = not self.is_open or number in self.busy
        self.refused += shut
        return shut

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while self.is_open and (data := server.recv(2**16)):
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """moto's server mode; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=sink, stderr=sink
        )
    for _ in range(150):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    try:
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def make_bucket(address: str, name: str) -> None:
    boto3.client("s3", endpoint_url=f"http://{address}", region_name="us-east-1").create_bucket(Bucket=name)


def options(address: str) -> str:
    """What stands behind an address of a bucket there."""
    return f"?endpoint_override={address}&scheme=http&region=us-east-1"
