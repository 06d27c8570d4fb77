"""A job that is stopped ends as after Ctrl-C, wherever the signal finds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from brainscale.errors import RERUN

LOST = """
import os, signal, time
from brainscale.cluster.job_main import _interrupt_when_stopped

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

def stop():
    {stop}

_interrupt_when_stopped()
try:
    stop()
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("stop", ["os.kill(os.getpid(), signal.SIGTERM)", "Dropping()"], ids=["at once", "destructor"])
def test_a_stop_is_not_lost(stop: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOST.format(stop=stop)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("stopped\n", "", 0)


SWALLOWED = """
import os, signal, sys
from contextlib import nullcontext
from brainscale.cluster import job_main

def work(request):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except KeyboardInterrupt:  # as a library that traces a network does
        raise RuntimeError("no attribute") from None

job_main.session = nullcontext
job_main.run_job(work)
"""


def run_job(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process that runs a job with an empty request."""
    request = folder / "request.json"
    request.write_text("{}", encoding="utf-8")
    return subprocess.run([sys.executable, "-c", code, request], capture_output=True, text=True, timeout=60)


def test_an_error_that_a_stop_became_is_a_stop(tmp_path: Path) -> None:
    done = run_job(SWALLOWED, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", f"stopped: {RERUN}\n", 1)


CLOSING = """
import os, signal, sys
from contextlib import contextmanager
from brainscale.cluster import job_main

@contextmanager
def session():
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("closed", file=sys.stderr)

def work(request):
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()

job_main.session = session
job_main.run_job(work)
"""


def test_a_stop_is_said_before_the_connection_ends(tmp_path: Path) -> None:
    """Which may take longer than Ray waits; the next stop then finds nothing to stop."""
    done = run_job(CLOSING, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", f"stopped: {RERUN}\nclosed\n", 1)
