"""What workers have to say to the person at the terminal: lines appended to a file of the run.

They run on other machines, and the command that waits for them reads the file as it grows.
"""

import json
import time
from pathlib import Path

NOTICES = "notices.jsonl"


def notice(run: Path, text: str) -> None:
    """Append a line; one short write, so that two writers do not mix."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "text": text}, ensure_ascii=False)
    with (run / NOTICES).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_notices(run: Path) -> list[str]:
    """The texts so far; a line that was cut by a kill is left out."""
    try:
        lines = (run / NOTICES).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [text for line in lines for text in _text(line)]


def _text(line: str) -> list[str]:
    try:
        return [str(json.loads(line)["text"])]
    except (ValueError, KeyError, TypeError):
        return []
