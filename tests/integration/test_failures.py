"""An error on one worker ends the command within seconds, with that worker's one line, and without useless restarts."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from brainscale.config.files import load_config
from brainscale.errors import BrainscaleError, OutputError, TrainError
from brainscale.storage.workspace import Workspace
from brainscale.training import attempts, worker_group
from brainscale.training.exact_sum import PeerError, is_equal_on_all_workers
from brainscale.training.worker import TrainingJob, errors_for_people
from tests.support.processes import started, wait_for
from tests.support.runs import SMALL, Invoke, long

pytestmark = [pytest.mark.ray]
ROOT = Path(__file__).parents[2]


def fails_on_rank_1(arguments: Mapping[str, TrainingJob]) -> None:
    """A loop whose second worker meets a full disk while the first one waits for it."""
    with errors_for_people(arguments["job"].run):
        if dist.get_rank() == 1:
            Path(arguments["job"].run, "failed").touch()
            raise OSError(28, "No space left on device", "/data/steps")
        is_equal_on_all_workers(torch.zeros(1))


def stands_still_on_rank_1(arguments: Mapping[str, TrainingJob]) -> None:
    """A loop whose second worker hangs."""
    if dist.get_rank() == 1:
        time.sleep(600)
    is_equal_on_all_workers(torch.zeros(1))


def fails_each_time(arguments: Mapping[str, TrainingJob]) -> None:
    """A loop with a mistake of torch's, on the second worker."""
    if dist.get_rank() == 1:
        raise RuntimeError("shapes do not match")
    is_equal_on_all_workers(torch.zeros(1))


def fit(
    loop: Callable[[Mapping[str, TrainingJob]], None], run: Path, monkeypatch: pytest.MonkeyPatch, *settings: str
) -> tuple[BrainscaleError, list[str], float]:
    """Run a loop on two workers that fails; return the error, the restarts, and the seconds it took."""
    monkeypatch.setattr(worker_group, "train_worker", loop)
    config = load_config(None, ["resources.workers=2", "resources.device=cpu", *settings])
    restarts: list[str] = []
    begun = time.monotonic()
    with pytest.raises(BrainscaleError) as caught:
        worker_group.fit(TrainingJob(config=config, run=str(run), samples={}), Workspace(run), restarts.append)
    assert "\n" not in str(caught.value)
    return caught.value, restarts, time.monotonic() - begun


def test_an_error_on_one_of_two_workers_ends_the_run(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, restarts, _ = fit(fails_on_rank_1, tmp_path, monkeypatch)
    seconds = time.time() - (tmp_path / "failed").stat().st_mtime
    assert isinstance(error, OutputError)
    assert str(error) == (
        "/data/steps cannot be written (No space left on device): make room and run the same command again to resume"
    )
    assert restarts == []
    print(f"{seconds:.1f} s from the error to the end of the run")  # noqa: T201
    assert seconds < 15


@long
def test_a_worker_that_hangs_ends_the_run(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("resources.collective_seconds=3", "resources.restarts=1")
    error, restarts, seconds = fit(stands_still_on_rank_1, tmp_path, monkeypatch, *settings)
    assert isinstance(error, TrainError)
    assert "worker 0 failed: another worker did not answer in time (resources.collective_seconds): " in str(error)
    assert len(restarts) == 1
    assert restarts[0].endswith(": restart 1 of 1")
    assert seconds < 170  # the default of resources.collective_seconds is 180


@long
def test_the_same_error_again_is_no_accident(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, restarts, _ = fit(fails_each_time, tmp_path, monkeypatch)
    assert str(error).startswith("worker 1 failed: shapes do not match (the run is kept up to its last checkpoint)")
    assert restarts == ["worker 1 failed: shapes do not match: restart 1 of 3"]


def test_a_mistake_in_the_code_is_not_tried_again() -> None:
    assert not attempts.can_be_mended(TypeError("no such argument"), "")
    assert attempts.can_be_mended(PeerError("it ended"), "it ended")
    assert attempts.can_be_mended(OSError(116, "Stale file handle"), "")
    assert attempts.can_be_mended(RuntimeError("CUDA error"), "")


def test_a_folder_that_cannot_be_written_is_named(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    """`steps` is a file, so the first worker fails at the end of an epoch, and the second waits for it."""
    other = tmp_path / "run"
    other.mkdir()
    for name in ("config.yaml", "manifest.parquet", "environment.json"):
        shutil.copy(run / name, other)
    (other / "steps").write_text("no folder")
    begun = time.monotonic()
    result = invoke("train", "--data", run / "manifest.parquet", "--out", other, *SMALL, "--workers", "2")
    assert result.exit_code == 1
    assert f"Error: {other}/steps is a file, not a folder: give another path" in result.stderr
    assert "restart" not in result.stderr
    assert time.monotonic() - begun < 170  # the default of resources.collective_seconds is 180


def test_a_full_disk_is_named_and_not_tried_again(run: Path, tmp_path: Path) -> None:
    script = [sys.executable, "-m", "tests.support.small_run", run / "manifest.parquet", tmp_path / "disk"]
    (tmp_path / "disk").mkdir()
    done = subprocess.run(["unshare", "-rm", *map(str, script)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("NOT TESTED: no small disk can be mounted here")
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert f"Error: {tmp_path}/disk/run/checkpoints/last-" in errors[0]
    assert "cannot be written (No space left on device): make room and run the same command again" in errors[0]
    assert "restart" not in done.stderr
    assert "Traceback" not in done.stderr


@long
def test_two_commands_on_one_run(run: Path, invoke: Invoke, tmp_path: Path) -> None:
    """The second is refused, and the first ends as if it had been alone."""
    other = tmp_path / "run"
    train = ["train", "--data", str(run / "manifest.parquet"), "--out", str(other), *SMALL]
    with started([sys.executable, "-m", "brainscale", *train]) as process:
        wait_for(lambda: (other / ".owners").is_dir() and any((other / ".owners").iterdir()), process)
        result = invoke(*train)
        assert result.exit_code == 1
        assert f"another command (process {process.pid} on " in result.stderr
        assert f"already trains in {other}: wait for its end, or choose a new --out" in result.stderr
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert pq.read_table(other / "history.parquet") == pq.read_table(run / "history.parquet")
    assert not (other / ".owners").exists()
