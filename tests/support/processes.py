"""Commands as processes of their own, and kill -9 of what takes part in them, or in a command of this process."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil

SECONDS = 300
WORKERS = ("RayTrainWorker", "EngineActor", "brainscale.training.worker_main")


def part_of(pid: int, kind: str) -> psutil.Process | None:
    """A process of a command: its driver, a worker that trains or scores, or its raylet; None where there is none."""
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        if kind == "driver":
            return driver
        for child in driver.children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                command = " ".join(child.cmdline())
                if kind == "worker" and any(name in command for name in WORKERS):
                    return child
                if kind == "raylet" and child.name() == "raylet":
                    return child
    return None


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """The command in a session of its own; nothing of it is left after the with-block."""
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def beside(action: Callable[[], object]) -> Iterator[None]:
    """Run an action in a thread beside the with-block; what it raises is raised at the end."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(action)
        yield
        done.result()


def wait_for(happened: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Until something happened, or the process ended."""
    deadline = time.monotonic() + SECONDS
    while not happened() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def kill(pid: int, kind: str) -> bool:
    """Whether there was one to kill."""
    target = part_of(pid, kind)
    if target is not None:
        target.send_signal(signal.SIGKILL)
    return target is not None


def kill_with_workers(process: subprocess.Popen[str], kind: str) -> bool:
    """The same, and every process of Ray's that works for it: workers of a dead driver or raylet go on for a while."""
    family = psutil.Process(process.pid).children(recursive=True)
    found = kill(process.pid, kind)
    for member in family:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if member.cmdline()[:1] and member.cmdline()[0].startswith("ray::"):
                member.kill()
    return found
