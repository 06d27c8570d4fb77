"""Training without Ray: when, its planes, and its worker, a process that ends with its driver and may be killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.errors import ManifestError, TrainError
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.training import locally
from brainscale.training.attempts import AttemptError, WorkerEndedError, can_be_mended, find_first
from brainscale.training.exact_sum import Group, PeerError
from brainscale.training.locally import LocalTrainer, can_train_here, planes_fit_here
from brainscale.training.pace import ignore_step
from brainscale.training.shared_planes import SharedPlanes
from brainscale.training.worker import SplitSamples, TrainingJob
from brainscale.training.worker_messages import WorkerError, decode_error, decode_job, encode_error, encode_job
from brainscale.training.worker_process import WorkerProcess, _stay_on_this_machine, train_together
from tests.support.runs import SMALL

SECONDS = 120
SETTINGS = [value for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True) if flag == "--set"]
API = """
import sys, torch
import brainscale as bs
threads = torch.get_num_threads()
run = bs.train(sys.argv[1], sys.argv[2], epochs=1, overrides=sys.argv[3:], on_notice=print)
evaluation = bs.evaluate(run)
assert run.epochs == 1 and evaluation.samples == run.samples["test"] and evaluation.errors == 0
assert "ray" not in sys.modules, "Ray was loaded"
assert not torch.are_deterministic_algorithms_enabled() and torch.get_num_threads() == threads
"""


WITHOUT_SAMPLES = TrainingJob(config=load_config(None, SETTINGS), run="/no/such/run", samples={})
ALONE = Group(rank=0, workers=1, store="")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TrainError("the loss is not finite"), (TrainError, "the loss is not finite", False)),
        (FileNotFoundError(2, "No such file", "/x"), (OSError, "[Errno 2] No such file: '/x'", True)),
        (RuntimeError("out of memory\nmore"), (RuntimeError, "out of memory", True)),
        (KeyError("a"), (WorkerError, "KeyError: 'a'", False)),
        (PeerError("another worker ended"), (PeerError, "another worker ended", True)),
    ],
)
def test_an_error_crosses_as_text(error: Exception, expected: tuple[type, str, bool]) -> None:
    crossed = decode_error(encode_error(error))
    assert crossed is not None
    assert (type(crossed), str(crossed), can_be_mended(crossed, "")) == expected
    assert decode_error(encode_error(None)) is None


def test_a_job_crosses_whole() -> None:
    planes = SharedPlanes(descriptor=7, count=3, rows=np.array([2, 0], np.int64))
    samples = SplitSamples(sample_ids=["a", "é\n"], labels=[0, 1], planes=planes)
    job = TrainingJob(config=load_config(None, SETTINGS), run="s3://bucket/run", samples={"train": samples})
    group = Group(rank=1, workers=2, store="/é/store")
    line = encode_job(job, group)
    assert line.count(b"\n") == 1
    crossed, crossed_group = decode_job(line)
    assert (crossed.config, crossed.run, crossed_group) == (job.config, job.run, group)
    received = crossed.samples["train"]
    assert (received.sample_ids, received.labels) == (samples.sample_ids, samples.labels)
    assert isinstance(received.planes, SharedPlanes)
    assert (received.planes.descriptor, received.planes.count, received.planes.rows.tolist()) == (7, 3, [2, 0])


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of a user: other tests of this session may have connected to a Ray."""
    monkeypatch.setattr(locally, "is_ray_near", lambda: False)


def test_which_runs_need_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def may(*settings: str) -> bool:
        return can_train_here(load_config(None, settings))

    monkeypatch.setattr(locally, "has_gpu", lambda: False)
    assert may()
    assert may("resources.workers=1")
    for setting in ("ray=always", "device=cuda", "object_store_gib=1", "cpus_per_worker=4096"):
        assert not may(f"resources.{setting}"), setting
    monkeypatch.setattr(locally, "count_cpus", lambda: 2)
    assert may("resources.workers=2")
    assert not may("resources.workers=4")
    assert not may("resources.workers=2", "resources.cpus_per_worker=2")
    monkeypatch.setattr(locally, "has_gpu", lambda: True)
    assert not may()
    assert may("resources.device=cpu")
    monkeypatch.setattr(locally, "is_ray_near", lambda: True)
    assert not may("resources.device=cpu")


def test_planes_must_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(None, ["data.image_size=1024"])
    monkeypatch.setattr(locally, "read_memory", lambda: 2**40)
    assert planes_fit_here(2048, config)
    assert not planes_fit_here(2049, config)
    monkeypatch.setattr(locally, "read_memory", lambda: 2**30)
    assert planes_fit_here(256, config)
    assert not planes_fit_here(257, config)


def test_planes_are_those_of_the_files(scans: Path) -> None:
    config = load_config(None, ["data.image_size=64"])
    manifest = bs.index(scans, overrides=["data.image_size=64"])
    halves = [manifest.slice(0, 30), manifest.slice(30)]
    request = ReadRequest(preprocess=config.data.preprocess, limits=config.limits)
    expected = {sample.sample_id: sample.plane for sample in read_samples(scans, request)}
    ids = manifest["sample_id"].to_pylist()[::-2]
    with LocalTrainer(config) as trainer:
        planes = trainer.store(halves, config).locate(ids).open(64)
        taken = planes.take(np.arange(len(ids))[::-1])
    assert np.array_equal(taken[::-1], np.stack([expected[i] for i in ids]))


def test_a_file_that_changed_is_named(phantoms: Path, tmp_path: Path) -> None:
    config = load_config(None, ["data.image_size=64"])
    manifest = bs.index(phantoms, overrides=["data.image_size=64"])
    one = manifest.slice(7, 1)
    other = pa.array(["0" * 64])
    changed = one.set_column(one.column_names.index("sha256"), "sha256", other)
    with LocalTrainer(config) as trainer, pytest.raises(ManifestError, match="changed after it was indexed"):
        trainer.store([manifest.slice(0, 7), changed], config)
    assert pc.all(pc.is_null(manifest["error"])).as_py()


def test_an_error_of_the_worker_is_raised_here() -> None:
    with WorkerProcess() as worker, pytest.raises(AttemptError, match="worker 0 failed: KeyError: 'train'") as caught:
        worker.train(WITHOUT_SAMPLES, ALONE, ignore_step)
    assert isinstance(caught.value.cause, WorkerError)
    assert "in train_on" in caught.value.cause.__notes__[0]  # the worker's traceback
    assert not can_be_mended(caught.value.cause, "")


def test_a_worker_that_was_killed_may_be_started_again() -> None:
    with WorkerProcess() as worker:
        worker._process.send_signal(signal.SIGKILL)
        with pytest.raises(AttemptError, match=r"worker 0 failed: its process was killed \(SIGKILL\)") as caught:
            worker.train(WITHOUT_SAMPLES, ALONE, ignore_step)
    assert isinstance(caught.value.cause, WorkerEndedError)
    assert can_be_mended(caught.value.cause, str(caught.value.cause))


def test_a_group_ends_when_one_of_it_is_killed() -> None:
    """The other one waits for it, and says so; the error is that of the one that was killed."""
    with WorkerProcess() as first, WorkerProcess() as second:
        second._process.send_signal(signal.SIGKILL)
        with pytest.raises(AttemptError, match=r"worker 1 failed: its process was killed \(SIGKILL\)") as caught:
            train_together([first, second], WITHOUT_SAMPLES, ignore_step)
        assert first._process.poll() is not None
    assert can_be_mended(caught.value.cause, "")


def test_a_group_ends_when_one_of_it_hangs() -> None:
    config = load_config(None, [*SETTINGS, "resources.collective_seconds=3"])
    job = TrainingJob(config=config, run="/no/such/run", samples={})
    with WorkerProcess() as first, WorkerProcess() as second:
        second._process.send_signal(signal.SIGSTOP)
        with pytest.raises(AttemptError, match="worker 0 failed: another worker did not answer in time") as caught:
            train_together([first, second], job, ignore_step)
    assert isinstance(caught.value.cause, PeerError)


def test_an_error_of_a_group_is_raised_here() -> None:
    with WorkerProcess() as first, WorkerProcess() as second:
        with pytest.raises(AttemptError, match=r"worker [01] failed: KeyError: 'train'") as caught:
            train_together([first, second], WITHOUT_SAMPLES, ignore_step)
        assert {worker._process.poll() is not None for worker in (first, second)} == {True}
    assert isinstance(caught.value.cause, WorkerError)


def test_the_error_of_a_group_is_that_of_the_worker_that_failed_first() -> None:
    ended, peer, full = WorkerEndedError("killed"), PeerError("it ended"), TrainError("the disk is full")
    assert find_first({0: peer, 1: ended}) == 1
    assert find_first({0: ended, 1: peer, 2: full}) == 2
    assert find_first({0: peer, 1: peer}) == 0


def test_workers_of_one_machine_listen_to_no_network() -> None:
    assert _stay_on_this_machine() == {"GLOO_SOCKET_IFNAME": "lo"}


def test_a_worker_ends_with_its_driver() -> None:
    code = (
        "import time; from brainscale.training.worker_process import WorkerProcess; "
        "print(WorkerProcess()._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        worker = psutil.Process(int(driver.stdout.readline()))
        assert worker.is_running()
        driver.kill()
    worker.wait(SECONDS)


def test_the_users_process_keeps_its_settings_and_loads_no_ray(scans: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    begun = time.monotonic()
    command = [sys.executable, "-c", API, str(scans), str(tmp_path / "run"), *SETTINGS]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    print(f"{time.monotonic() - begun:.1f} s")  # noqa: T201
