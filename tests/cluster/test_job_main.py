"""A job that is stopped ends as after Ctrl-C, wherever the signal finds it."""

import subprocess
import sys

import pytest

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
