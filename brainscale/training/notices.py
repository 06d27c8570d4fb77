"""Notices: messages of the workers for the user, each a small file in the run folder.

Workers run on other machines; the driver reads the files and shows their messages.
"""

import json
import time
import uuid
from collections.abc import Collection
from pathlib import Path

from brainscale.storage.local import make_folder, write_json

NOTICES = "notices"


def write_notice(run: Path, text: str) -> None:
    """Write a notice, one line of text."""
    notice = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "text": text}
    write_json(make_folder(run / NOTICES) / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.json", notice)


def read_notices(run: Path, skip: Collection[str] = ()) -> dict[str, str]:
    """Return file name → text of the notices, oldest first, without the file names in `skip`."""
    paths = sorted((run / NOTICES).glob("*.json"))
    return {
        path.name: str(json.loads(path.read_text(encoding="utf-8"))["text"]) for path in paths if path.name not in skip
    }
