"""Ray nodes of a test's own on loopback: a head with its Jobs server, and nodes that join it and can be killed."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
START_S = 120  # a busy machine starts a node slowly
NOTICED_SOON = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500"}
"""Of Ray's core: that a node is dead, which otherwise takes a quarter of a minute."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """Nodes that this test started, and how to reach them.

    Attributes:
        folder: of the nodes' temporary files; short, since sockets lie there.
        token: without which nobody is served.
    """

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    port: int = field(default_factory=free_port)
    jobs_port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def jobs(self) -> str:
        """Address of the Jobs server."""
        return f"http://127.0.0.1:{self.jobs_port}"

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Ours, with the cluster's token, and with this Python as `python`."""
        ours = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
        aws = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
        path = f"{BIN}:{ours['PATH']}"
        return {**aws, **ours, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or self.token}

    def start_head(self, cpus: int) -> None:
        """Start the head and wait until it takes jobs."""
        self._start(
            *("--head", f"--port={self.port}", f"--num-cpus={cpus}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.jobs_port}"),
            f"--dashboard-agent-listen-port={free_port()}",
        )
        self._wait(lambda: self._get("/api/jobs/") is not None, "no Jobs server")

    def add_node(self, cpus: int) -> subprocess.Popen[bytes]:
        """Start a node that joins the head, and wait until it is in."""
        self._wait(self._alive, "the head does not answer")
        before = self._alive()
        node = self._start(
            *(f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}"),
            f"--dashboard-agent-listen-port={free_port()}",
        )
        self._wait(lambda: self._alive() - before, "the node did not join")
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node and all of its processes, as a power cut does."""
        top = psutil.Process(node.pid)
        for process in [top, *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait(60)
        self.nodes.remove(node)

    def _alive(self) -> set[str]:
        """Ids of the nodes that the head counts, for a while also of one that has just died."""
        answer = self._get("/api/v0/nodes")
        nodes = answer["data"]["result"]["result"] if answer else []
        return {node["node_id"] for node in nodes if node["state"] == "ALIVE"}

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        fixed = ("--block", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000", "--disable-usage-stats")
        own = self.folder / f"{len(list(self.folder.iterdir()))}"  # one for all is cleared by the next node to start
        own.mkdir()
        node = subprocess.Popen(
            [BIN / "ray", "start", *fixed, f"--temp-dir={own}", *arguments],
            env={**self.environment(), **NOTICED_SOON},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.nodes.append(node)
        return node

    def _get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.jobs}{path}", headers=headers)  # noqa: S310 (loopback)
        with suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return json.load(answer)
        return None

    def _wait(self, there: Callable[[], object], problem: str) -> None:
        deadline = time.monotonic() + START_S
        while not there():
            assert self.nodes[-1].poll() is None, "ray start ended"
            assert time.monotonic() < deadline, problem
            time.sleep(0.5)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster without nodes; those that the with-block starts end with it."""
    nodes = Cluster(folder)
    try:
        yield nodes
    finally:
        for node in reversed(list(nodes.nodes)):
            nodes.kill(node)
