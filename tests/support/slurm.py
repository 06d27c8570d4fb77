"""A Slurm of one machine: every node of the allocation is this one, on loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.ports import free_port

SCRIPT = Path(__file__).parents[2] / "configs" / "cluster" / "slurm.sbatch"
SCONTROL = "#!/bin/bash\nprintf 'node%s\\n' 1 2\n"
SRUN = """#!/bin/bash
# Runs a step's command here; writes down how it was asked, and who may read the token.
while [[ $1 == --* ]]; do shift; done
echo "$*" >> "$FAKE_LOG"
token=${RAY_AUTH_TOKEN_PATH:-/none}
echo "token $(stat -c %a "$token" 2>/dev/null) folder $(stat -c %a "$(dirname "$token")")" \\
  "in-environment ${RAY_AUTH_TOKEN:-no}" >> "$FAKE_LOG"
case "$1 $2 $3" in
  hostname*) echo "127.0.0.1 10.0.0.1 " ;;
  "ray start --head") exec "$@" --dashboard-agent-listen-port="$AGENT_1" $ON_ONE_MACHINE ;;
  "ray start"*) exec "$@" --node-ip-address=127.0.0.1 --dashboard-agent-listen-port="$AGENT_2" $ON_ONE_MACHINE ;;
  *) exec "$@" ;;
esac
"""


def executable(path: Path, text: str) -> Path:
    """A script, ready to run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


class Allocation:
    """Two nodes for one job: what `sbatch` would set, and where things went."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Make the commands of Slurm, and say where our own are (VIRTUAL_ENV)."""
        executable(folder / "bin" / "srun", SRUN)
        executable(folder / "bin" / "scontrol", SCONTROL)
        self.home, self.log, self.port = folder / "home", folder / "log", free_port()
        self.home.mkdir()
        self.scratch = Path(f"/tmp/ray-{os.getpid()}")  # noqa: S108 (the script's own)
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))}
        self.environment = {
            **ours,
            "PATH": f"{folder / 'bin'}:{ours['PATH']}",
            "HOME": str(self.home),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_PER_TASK": "2",
            "RAY_PORT": str(self.port),
            "RAY_JOBS_PORT": str(free_port()),
            "AGENT_1": str(free_port()),
            "AGENT_2": str(free_port()),
            "ON_ONE_MACHINE": "--object-store-memory=150000000 --min-worker-port=0 --max-worker-port=0",
            "FAKE_LOG": str(self.log),
            **environment,
        }

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """The batch script, as Slurm would start it on the first node."""
        return subprocess.Popen(
            ["/bin/bash", str(SCRIPT), *map(str, arguments)],
            env=self.environment,
            cwd=SCRIPT.parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def left_behind(self) -> list[str]:
        """What should be gone: the token's folder, Ray's files, whoever listens on the cluster's port."""
        with socket.socket() as probe:
            listening = probe.connect_ex(("127.0.0.1", self.port)) == 0
        found = [str(p) for p in [*self.home.glob(".brainscale-*"), self.scratch] if p.exists()]
        return found + [f"port {self.port}"] * listening


PYTHON = sys.executable
