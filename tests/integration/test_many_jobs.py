"""Ten scoring commands on one folder at once, some killed: the bytes of a job that nobody disturbed; without Ray.

BRAINSCALE_KILLS=10 adds twenty jobs, each killed at a random moment (`make kills`).
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from brainscale.models.bundle import Bundle
from brainscale.storage.remote import ObjectStore
from tests.support.images import write_image
from tests.support.stores import make_bucket, place, s3_server

KILLS = int(os.environ.get("BRAINSCALE_KILLS", "0"))
IMAGES, JOBS = 40, 10
PROGRAM = """
from brainscale.scoring import blocks
blocks.MIN_BLOCK_ROWS = 4  # some ten parts
from brainscale.cli.main import main
main()
"""
LIGHT = """
import sys
from brainscale.cli.main import main
main(sys.argv[1:], standalone_mode=False)
print(sorted({"ray", "torch"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for number in range(IMAGES):
        write_image(folder / f"{number:02}.png", seed=number)
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def command(bundle: Bundle, source: Path, out: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "score", str(bundle.folder), str(source), "--out", str(out)]


def run_alone(bundle: Bundle, source: Path, out: object) -> None:
    done = subprocess.run(command(bundle, source, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def snapshot(out: Path | str) -> dict[str, bytes]:
    """The parts of a folder, by name."""
    if isinstance(out, Path):
        return {path.name: path.read_bytes() for path in out.glob("part-*")}
    store = ObjectStore(out)
    return {name: store.get(name) for name in store.names() if name.startswith("part-")}


@pytest.fixture(scope="module")
def untouched(bundle: Bundle, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("untouched") / "scores"
    run_alone(bundle, source, out)
    parts = snapshot(out)
    assert len(parts) > 5
    return parts


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path | str]:
    """A folder on a disk, or in an object store."""
    if request.param == "disk":
        yield tmp_path / "scores"
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with s3_server(tmp_path / "log") as port:
        make_bucket(f"127.0.0.1:{port}", "bucket")
        yield place("s3", f"127.0.0.1:{port}", "scores")


@pytest.mark.parametrize("folder", ["disk", "store"], indirect=True)
def test_ten_jobs_at_once_some_of_them_killed(
    folder: Path | str, bundle: Bundle, source: Path, untouched: dict[str, bytes]
) -> None:
    chance = random.Random(0)  # noqa: S311 (no secret)
    jobs = [
        subprocess.Popen(
            command(bundle, source, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        for _ in range(JOBS)
    ]
    try:
        deadline = time.monotonic() + 240
        while not snapshot(folder):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        killed = jobs[: JOBS // 2]
        for job in killed:
            time.sleep(chance.uniform(0, 0.5))
            job.send_signal(signal.SIGKILL)
        ended = [job.communicate(timeout=240)[1].decode() for job in jobs]
        for job, said in zip(jobs[JOBS // 2 :], ended[JOBS // 2 :], strict=True):
            assert job.returncode == 0, said
    finally:
        for job in jobs:
            if job.poll() is None:
                job.kill()
                job.communicate()
    assert snapshot(folder) == untouched
    run_alone(bundle, source, folder)
    assert snapshot(folder) == untouched


@pytest.mark.skipif(not KILLS, reason="the long form: make kills")
@pytest.mark.parametrize("number", range(2 * KILLS))
def test_a_job_killed_at_a_random_moment(
    number: int, bundle: Bundle, source: Path, untouched: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    chance = random.Random(number)  # noqa: S311 (no secret)
    with subprocess.Popen(command(bundle, source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
        time.sleep(chance.uniform(0.5, 4))
        job.kill()
    there = snapshot(out)
    print(f"{len(there)} of {len(untouched)} parts; status {job.returncode}")  # noqa: T201
    assert there.items() <= untouched.items()
    run_alone(bundle, source, out)
    assert snapshot(out) == untouched
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_a_small_job_imports_neither_ray_nor_torch(bundle: Bundle, source: Path, tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / "few" / f"{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "few" / f"{number}.png").write_bytes((source / f"{number:02}.png").read_bytes())
    arguments = ["score", str(bundle.folder), str(tmp_path / "few"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.ray
def test_parts_of_ray_are_those_of_a_job_without_it(
    ray_cluster: None, bundle: Bundle, source: Path, untouched: dict[str, bytes], tmp_path: Path
) -> None:
    """Cut alike, which a small job's few files are not otherwise."""
    from brainscale.scoring import blocks
    from brainscale.scoring.bulk import score_files

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_BLOCK_ROWS", 4)
        score_files(str(bundle.folder), [str(source)], str(tmp_path / "out"), workers=2)
    assert snapshot(tmp_path / "out") == untouched


def test_too_many_errors_fail_a_complete_job(bundle: Bundle, tmp_path: Path) -> None:
    few = tmp_path / "few"
    write_image(few / "0.png")
    for number in range(3):
        (few / f"bad{number}.png").write_bytes(b"no image")
    out = tmp_path / "out"
    done = subprocess.run(command(bundle, few, out), capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("Error")]
    assert "3 of 4 sample(s) could not be scored (unsupported_format 3), more than --fail-above 0.5 allows" in line
    assert (out / "_SUCCESS.json").exists()
    assert len(snapshot(out)) == 1
    again = subprocess.run(command(bundle, few, out), capture_output=True, text=True)
    assert again.returncode == 1
    enough = subprocess.run([*command(bundle, few, out), "--fail-above", "0.75"], capture_output=True, text=True)
    assert enough.returncode == 0, enough.stderr
