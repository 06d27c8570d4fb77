"""Start a job: `python jobs/start.py train request.json` runs jobs/train.py, where Python has the packages for it."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("click", "pyarrow", "ray", "torch")

if __name__ == "__main__":
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        sys.exit(
            f"Error: {sys.executable}, the Python of this cluster's jobs, has no {missing[0]}: start Ray on the head "
            "with brainscale's environment activated, so that `python` is the one of it"
        )
    command, *sys.argv[1:] = sys.argv[1:]
    runpy.run_path(str(Path(__file__).with_name(f"{command}.py")), run_name="__main__")
