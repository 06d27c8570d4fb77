"""Run a command's request inside a job of the cluster; the entry point of the scripts in jobs/."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brainscale import logs
from brainscale.cluster.session import session
from brainscale.errors import BrainscaleError, first_line

REQUEST = "request.json"


RESULT = "brainscale-result: "
"""What a job's log has before its result, one line of JSON."""


def run_job(function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Main of the scripts in jobs/: connect to the cluster around it, do the request, print what came of it.

    Args:
        function: takes the request that `submit` sent, returns facts to print.
    """
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        with session():
            result = function(request)
        print(RESULT + json.dumps(result), flush=True)  # noqa: T201 (a job's log is its output)
    except KeyboardInterrupt:  # how a stopped job's SIGTERM arrives
        logs.log("error", "stopped: run the same command again to resume", level="error", exit_status=1)
        raise SystemExit(1) from None
    except Exception as error:  # noqa: BLE001 (a job's log is for a person)
        known, status = isinstance(error, BrainscaleError), getattr(error, "exit_code", 1)
        said = str(error) if known else f"unexpected {type(error).__name__}: {first_line(error)}"
        logs.log("error", said if logs.is_structured() else f"Error: {said}", level="error", exit_status=status)
        raise SystemExit(status) from None
