"""Ray nodes of a test's own on loopback: a head with its Jobs server, and nodes that join it and can be killed."""

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from tests.support.ports import free_port

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
START_S = 120  # a busy machine starts a node slowly
NOTICED_SOON = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "500"}
"""Of Ray's core: that a node is dead, which otherwise takes a quarter of a minute."""
STORE = 200_000_000  # bytes of a node's object store
COMMAND = (sys.executable, "-m", "brainscale")
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",  # as `ray up` and KubeRay have it
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
}
"""Environment of a head whose autoscaler starts nodes on this machine."""
COMMANDS = [
    *("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
]


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
        of_our_session = ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
        ours = {k: v for k, v in os.environ.items() if k not in of_our_session}
        aws = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
        path = f"{BIN}:{ours['PATH']}"
        return {**aws, **ours, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or self.token}

    def command(
        self, *arguments: object, token: str | None = None, program: Sequence[str] = COMMAND
    ) -> subprocess.Popen[str]:
        """Start a brainscale command that asks this cluster."""
        return subprocess.Popen(
            [*program, *map(str, arguments), "--address", self.jobs],
            env=self.environment(token),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_head(self, cpus: int, more: Sequence[Mapping[str, float]] = ()) -> None:
        """Start the head and wait until it takes jobs.

        Args:
            cpus: of the head.
            more: what each node has that its autoscaler may add.
        """
        self._start(
            *("--head", f"--port={self.port}", f"--num-cpus={cpus}"),
            *([f"--autoscaling-config={self._plan(cpus, more)}"] if more else []),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.jobs_port}"),
            f"--dashboard-agent-listen-port={free_port()}",
            more=AUTOSCALER if more else {},
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
        return {str(node["node_id"]) for node in self.ever() if node["state"] == "ALIVE"}

    def ever(self) -> list[dict[str, Any]]:
        """Nodes that the head counts or has counted."""
        answer = self._get("/api/v0/nodes")
        return list(answer["data"]["result"]["result"]) if answer else []

    def _plan(self, cpus: int, more: Sequence[Mapping[str, float]]) -> Path:
        """A cluster file of nodes on this machine: one of each kind at most, which go when they had nothing to do."""
        store = {"object_store_memory": STORE}
        kinds = {f"kind-{number}": {"resources": {**store, **has}, "max_workers": 1} for number, has in enumerate(more)}
        head = {FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": cpus}, "max_workers": 0}}
        plan = {
            "cluster_name": "test",
            "max_workers": len(more),
            "idle_timeout_minutes": 0.5,
            "provider": {
                "type": "external",
                "module": "tests.support.provider.OnThisMachine",
                "folder": str(self.folder),
                "gcs_address": f"127.0.0.1:{self.port}",
                "launch_multiple": True,
                "disable_node_updaters": True,
            },
            "available_node_types": {name: {"node_config": {}, **kind} for name, kind in {**head, **kinds}.items()},
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            **{name: {} for name in ("auth", "docker", "file_mounts")},
            **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter", *COMMANDS)},
        }
        path = self.folder.with_name(f"{self.folder.name}.json")  # beside the nodes' folders, which are counted
        path.write_text(json.dumps(plan))
        return path

    def _start(self, *arguments: str, more: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[bytes]:
        fixed = ("--block", "--node-ip-address=127.0.0.1", f"--object-store-memory={STORE}", "--disable-usage-stats")
        own = self.folder / f"{len(list(self.folder.iterdir()))}"  # one for all is cleared by the next node to start
        own.mkdir()
        node = subprocess.Popen(
            [BIN / "ray", "start", *fixed, f"--temp-dir={own}", *arguments],
            env={**self.environment(), **NOTICED_SOON, **more},
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


def ended(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command; its status, output and messages."""
    out, err = command.communicate(timeout=400)
    assert "Traceback" not in out + err, out + err
    return command.returncode, out, err


def result_of(command: subprocess.Popen[str]) -> str:
    """Wait for a command that must succeed; its output."""
    status, out, err = ended(command)
    assert status == 0, out + err
    return out
