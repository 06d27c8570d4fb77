"""Messages on standard error: lines for a person, or one JSON object per line for a machine."""

import json
import os
import sys
import time
from typing import Any

from brainscale.formatting import printable

VARIABLE = "BRAINSCALE_LOG_FORMAT"
"""Environment variable: `json` selects JSON objects. Jobs on a cluster get it from the command that submits them."""


def is_structured() -> bool:
    """Return whether messages are JSON objects."""
    return os.environ.get(VARIABLE) == "json"


def parse_line(line: str) -> dict[str, Any] | None:
    """Return the JSON object of a structured line, or None for a line of text."""
    if not line.startswith("{"):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "event" in message else None


def log(event: str, text: str | None = None, *, level: str = "info", **fields: Any) -> None:
    """Write one line to standard error.

    Args:
        event: kind of message, for a machine: `notice`, `epoch`, `error`, ….
        text: message for a person; without it, the line is written in JSON only.
        level: `info` or `error`.
        fields: further fields of the JSON object.
    """
    if is_structured():
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = {} if text is None else {"message": text}
        line = {"time": now, "level": level, "event": event, **message, **fields}
        sys.stderr.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    elif text is not None:
        sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def notice(text: str) -> None:
    """Write a message for a person to standard error, in one line whatever file names it contains."""
    log("notice", " ".join(text.split()))
