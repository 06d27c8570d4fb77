"""Run the request of a command inside a job on the cluster. The scripts in jobs/ start here."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brainscale import logs
from brainscale.cluster.session import session
from brainscale.errors import RERUN, BrainscaleError, first_line

REQUEST = "request.json"
"""Name of the file with a job's request."""
RESULT = "brainscale-result: "
"""Beginning of the line in a job's log that holds its result as JSON."""


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
            result = function(request)
        print(RESULT + json.dumps(result), flush=True)  # noqa: T201 (a job's log is its output)
    except KeyboardInterrupt:  # Ray stops a job with SIGTERM, which arrives as this
        logs.log("error", f"stopped: {RERUN}", level="error", exit_status=1)
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 (a job's log is for a person)
        expected, status = isinstance(error, BrainscaleError), getattr(error, "exit_code", 1)
        message = str(error) if expected else f"unexpected {type(error).__name__}: {first_line(error)}"
        logs.log("error", message if logs.is_structured() else f"Error: {message}", level="error", exit_status=status)
        raise SystemExit(status) from None
