"""What workers have to say to the person at the terminal: one small file of the run for each line.

They run on other machines, and the command that waits for them reads what comes.
"""

import json
import time
import uuid
from collections.abc import Collection
from pathlib import Path

from brainscale.storage.local import write_json

NOTICES = "notices"


def write_notice(run: Path, text: str) -> None:
    """Say a line."""
    (run / NOTICES).mkdir(exist_ok=True)
    said = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "text": text}
    write_json(run / NOTICES / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.json", said)


def read_notices(run: Path, but: Collection[str] = ()) -> dict[str, str]:
    """Name → text of each line so far, in their order, without those whose names are given."""
    paths = sorted((run / NOTICES).glob("*.json"))
    return {
        path.name: str(json.loads(path.read_text(encoding="utf-8"))["text"]) for path in paths if path.name not in but
    }
