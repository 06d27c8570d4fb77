"""How brainscale speaks on standard error: lines for a person, or one JSON object a line."""

import json
import os
import sys
import time
from typing import Any

VARIABLE = "BRAINSCALE_LOG_FORMAT"
"""`json` in the environment asks for objects; jobs on a cluster are told by it."""


def structured() -> bool:
    """Whether lines are JSON objects."""
    return os.environ.get(VARIABLE) == "json"


def parsed(line: str) -> dict[str, Any] | None:
    """The object of a structured line, None for a line for a person."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and "event" in said else None


def log(event: str, text: str | None = None, *, level: str = "info", **fields: Any) -> None:
    """Write one line to standard error.

    Args:
        event: what happened, for a machine: `notice`, `epoch`, `error`, ….
        text: what a person reads; without it the line is for machines only.
        level: `info` or `error`.
        fields: more of a JSON line.
    """
    if structured():
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {} if text is None else {"message": text}
        line = {"time": now, "level": level, "event": event, **said, **fields}
        sys.stderr.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    elif text is not None:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()


def notice(text: str) -> None:
    """Write a line for a person to standard error."""
    log("notice", text)
