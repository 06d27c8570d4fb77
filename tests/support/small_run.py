"""Train onto a disk that is too small for a checkpoint; run by `unshare -rm`, so that it may mount one."""

import subprocess
import sys
from pathlib import Path

from brainscale.cli.main import main
from tests.support.runs import SMALL
from tests.support.small_disk import mount

if __name__ == "__main__":
    manifest, disk = sys.argv[1:]
    try:
        mount("size=14m", Path(disk))  # room for a run when it begins, not for its second checkpoint beside the first
    except subprocess.CalledProcessError:
        sys.exit(77)
    main(["train", "--data", manifest, "--out", f"{disk}/run", *SMALL, "--workers", "2"])
