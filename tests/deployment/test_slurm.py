"""configs/cluster/slurm.sbatch with commands that only pretend: order, status, token, and a clean end."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.slurm import PYTHON, SCRIPT, Allocation, executable

RAY = f"""#!{PYTHON}
import os, socket, sys, time
if "--head" in sys.argv:
    server = socket.create_server(("127.0.0.1", int(os.environ["RAY_PORT"])))
time.sleep(600)
"""


def allocation(folder: Path, brainscale: str, all_up: bool = True) -> Allocation:
    """Two nodes where ray only listens, and brainscale is a shell script."""
    commands = folder / "venv" / "bin"
    executable(commands / "ray", RAY)
    executable(commands / "python", "#!/bin/bash\n" + ("exit 0" if all_up else "/bin/sleep 1; exit 1"))
    executable(commands / "sleep", "#!/bin/bash\nexec /bin/sleep 0.1")  # between two looks at a head's port
    both_up = 'until [ "$(grep -c "^token 600" "$FAKE_LOG")" = 2 ]; do sleep 0.1; done'
    executable(commands / "brainscale", f"#!/bin/bash\n{both_up}\n{brainscale}\n")
    return Allocation(folder, {"VIRTUAL_ENV": str(folder / "venv")})


def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        [Path(PYTHON).with_name("shellcheck"), "--severity=style", SCRIPT], capture_output=True, text=True
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_without_a_command_it_says_how_to_use_it() -> None:
    done = subprocess.run(["/bin/bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


@pytest.mark.parametrize("status", [0, 3])
def test_it_runs_the_command_with_its_status_and_leaves_nothing_behind(tmp_path: Path, status: int) -> None:
    here = allocation(tmp_path, f'echo "ran $*"; exit {status}')
    job = here.start("score", "run", "a folder/", "--out", "scores")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == status, output
    assert re.search(r"^ran score run a folder/ --out scores --address http://127\.0\.0\.1:\d+$", output, re.MULTILINE)
    assert here.left_behind() == []


def test_the_token_is_its_owners_and_in_no_command(tmp_path: Path) -> None:
    here = allocation(tmp_path, 'echo "secret $(cat "$RAY_AUTH_TOKEN_PATH")"; echo "mode $RAY_AUTH_MODE"')
    output, _ = here.start("score").communicate(timeout=60)
    (token,) = re.findall(r"^secret ([0-9a-f]{64})$", output, re.MULTILINE)
    assert "mode token" in output
    steps = here.log.read_text()
    assert token not in steps
    assert steps.count("token 600 folder 700 in-environment no") == steps.count("token 600") == 3  # head, worker, rm


def test_nodes_listen_for_jobs_on_loopback_only(tmp_path: Path) -> None:
    here = allocation(tmp_path, "exit 0")
    here.start("score").communicate(timeout=60)
    head, worker = [line for line in here.log.read_text().splitlines() if line.startswith("ray start")]
    assert "--dashboard-host=127.0.0.1" in head
    assert f"--address=127.0.0.1:{here.port}" in worker


def test_nodes_that_do_not_come_up_end_it_with_what_ray_said(tmp_path: Path) -> None:
    here = allocation(tmp_path, "echo never", all_up=False)
    executable(tmp_path / "venv" / "bin" / "ray", RAY.replace("time.sleep", "print('no room', flush=True); time.sleep"))
    job = here.start("score")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "no room" in output
    assert "never" not in output
    assert here.left_behind() == []


def test_ended_early_it_still_leaves_nothing_behind(tmp_path: Path) -> None:
    here = allocation(tmp_path, "echo started; exec /bin/sleep 600")
    job = here.start("score")
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    assert job.returncode == 128 + signal.SIGTERM
    for _ in range(50):
        if not here.left_behind():
            break
        time.sleep(0.1)
    assert here.left_behind() == []
