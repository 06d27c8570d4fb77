"""Servers on loopback that speak S3 or as Google's store does, to be killed and begun again; and a gate before them."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3

from tests.support.ports import free_port

EMULATOR = """
from http import server
server.HTTPServer = server.ThreadingHTTPServer  # it would serve one connection at a time
from gcp_storage_emulator.__main__ import main
main()
"""


def refusal(status: str, code: str) -> bytes:
    """Return an answer of S3 that refuses: its status line and its code."""
    error = f"<Error><Code>{code}</Code><Message>Please go away</Message></Error>"
    return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(error)}\r\n\r\n{error}".encode()


BUSY = refusal("503 Slow Down", "SlowDown")


class Gate:
    """Passes requests on to a server while it is open, and answers 503, or another answer, to each while it is shut.

    Attributes:
        is_open: whether it is.
        busy: numbers of the requests, from 0, that an open gate refuses too.
        asked: requests and further pieces of them that came.
        refused: of these, how many were.
        to: port of the server.
        answer: what a shut gate says.
        delay: seconds that each request waits before it is passed on.
    """

    def __init__(self, port: int) -> None:
        self.is_open, self.busy, self.asked, self.refused = True, range(0), 0, 0
        self.to, self.answer, self.delay = port, BUSY, 0.0
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
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self.to)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            while data := client.recv(2**16):
                if self._refuses():
                    client.sendall(self.answer)
                    break
                time.sleep(self.delay)
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
            while (data := server.recv(2**16)) and self.is_open:
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Server:
    """A server in a process of its own, that can be killed and started again on its port.

    Attributes:
        port: on loopback.
    """

    def __init__(self, log: Path, *command: str) -> None:
        self.port = free_port()
        self._log, self._command = log, [str(self.port) if word == "PORT" else word for word in command]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self._log.open("ab") as sink:
            self._process = subprocess.Popen([sys.executable, *self._command], stdout=sink, stderr=sink)
        for _ in range(150):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """moto's server mode; its port."""
    with closing(Server(log, "-m", "moto.server", "-H", "127.0.0.1", "-p", "PORT")) as server:
        yield server.port


@contextmanager
def gs_server(log: Path) -> Iterator[int]:
    """An emulator of Google's store with a bucket named bucket; its port."""
    start = ("start", "--host", "127.0.0.1", "--port", "PORT", "--in-memory", "--default-bucket", "bucket")
    with closing(Server(log, "-c", EMULATOR, *start)) as server:
        yield server.port


def lasting_s3_server(folder: Path) -> Server:
    """moto's server, whose buckets and uploads outlive its process: a journal in the folder holds them."""
    script = Path(__file__).with_name("lasting_s3.py")
    return Server(folder / "log", str(script), "PORT", str(folder / "journal"))


def client_of(address: str) -> Any:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    return boto3.client("s3", endpoint_url=f"http://{address}", region_name="us-east-1", **keys)


def make_bucket(address: str, name: str) -> None:
    client_of(address).create_bucket(Bucket=name)


def place(kind: str, address: str, folder: str) -> str:
    """Where a folder of the servers' bucket is: kind s3 or gs."""
    if kind == "gs":
        return f"gs://anonymous@bucket/{folder}?endpoint_override={address}&scheme=http"
    return f"s3://bucket/{folder}{options(address)}"


def options(address: str) -> str:
    """What stands behind an address of a bucket there."""
    return f"?endpoint_override={address}&scheme=http&region=us-east-1"
