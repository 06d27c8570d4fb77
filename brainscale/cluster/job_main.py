"""Run the request of a command inside a job on the cluster. The scripts in jobs/ start here."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from brainscale import interrupts, logs
from brainscale.cluster.session import session
from brainscale.errors import RERUN, BrainscaleError, first_line

if TYPE_CHECKING:  # it is no name of the module sys itself
    from sys import UnraisableHookArgs

REQUEST = "request.json"
"""Name of the file with a job's request."""
RESULT = "brainscale-result: "
"""Beginning of the line in a job's log that holds its result as JSON."""
AGAIN_S = 0.05
"""Seconds until a stop that came where Python drops exceptions is sent again."""


def run_job(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Connect to the cluster, run a job's request, and print its result.

    Args:
        function: takes the request that `submit` sent, and returns the result.

    Raises:
        SystemExit: the job failed or was stopped.
    """
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        with session():
            _interrupt_when_stopped()
            result = _run(function, request)
        print(RESULT + json.dumps(result), flush=True)  # noqa: T201 (a job's log is its output)
    except KeyboardInterrupt:
        _exit_stopped()
    except Exception as error:  # noqa: BLE001 (a job's log is for a person)
        expected, status = isinstance(error, BrainscaleError), getattr(error, "exit_code", 1)
        message = str(error) if expected else f"unexpected {type(error).__name__}: {first_line(error)}"
        logs.log("error", message if logs.is_structured() else f"Error: {message}", level="error", exit_status=status)
        raise SystemExit(status) from None


def _run(function: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """Return the result. A stop is said before the connection to Ray ends, which may take longer than Ray waits."""
    try:
        return function(request)
    except KeyboardInterrupt:
        _exit_stopped()
    except Exception as error:
        if interrupts.was_asked() and not isinstance(error, BrainscaleError):
            _exit_stopped()
        raise


def _exit_stopped() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left is to end
    logs.log("error", f"stopped: {RERUN}", level="error", exit_status=1)
    raise SystemExit(1) from None


def _interrupt_when_stopped() -> None:
    """Let SIGTERM, with which Ray stops a job, arrive in the main thread as a Ctrl-C does.

    Ray's own handler would write its stack to the log.
    """

    def send_again(lost: "UnraisableHookArgs") -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):  # it came inside a destructor or a callback
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            sys.__unraisablehook__(lost)

    signal.signal(signal.SIGTERM, interrupts.interrupt)
    sys.unraisablehook = send_again
