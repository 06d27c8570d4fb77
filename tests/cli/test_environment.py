"""Faults of the environment, each with a process of its own: it works, or one line says what to do.

A user without a home and a passwd entry, and a small disk, need root; elsewhere these tests are skipped.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import brainscale as bs
from brainscale.config.files import load_config
from brainscale.dataset.manifest import write_manifest
from brainscale.models.bundle import Bundle
from brainscale.training.run_folder import RunFolder
from tests.support.images import write_image
from tests.support.ports import free_port
from tests.support.runs import SMALL

USER = "12345"
"""A number without an entry in passwd."""
NOBODY = [
    *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),  # it may read everything, as this Python
]
"""The beginning of a command that runs as that user, who can write nothing that is not open to all."""
SETTINGS = [value for flag, value in zip(SMALL[::2], SMALL[1::2], strict=True) if flag == "--set"]
SOON = 30.0
"""Seconds that an address may take which does not answer: a minute is promised, and this machine may be busy."""


def _can_change() -> bool:
    commands = ([*NOBODY, "true"], ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
    try:
        return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)
    except FileNotFoundError:
        return False


as_root = pytest.mark.skipif(
    not _can_change(), reason="NOT TESTED: needs another user and a mount, which root can have"
)


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, their split manifest, and a run with a model, all of root's."""
    folder = tmp_path_factory.mktemp("environment")
    for number in range(12):
        write_image(folder / "scans" / ("yes", "no")[number % 2] / f"{number}.jpg", number)
    split = bs.split(bs.index(folder / "scans", overrides=["data.image_size=64"]))
    write_manifest(split, folder / "split.parquet")
    (folder / "run").mkdir()
    RunFolder(folder / "run").start(load_config(None, [*SETTINGS, "train.epochs=2"]), split)
    shutil.copytree(bundle.folder, folder / "run" / "model")
    return folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to, below folders that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="brainscale-open-", dir="/tmp") as path:
        Path(path).chmod(0o777)
        yield Path(path)


def run(
    folder: Path, *arguments: object, before: Sequence[str] = (), environment: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command in the folder.

    Args:
        folder: working directory.
        arguments: of the command.
        before: beginning of the command line, such as `NOBODY`.
        environment: changes of the environment; None removes a variable.
    """
    own = ("RAY_ADDRESS", "BRAINSCALE_ADDRESS", "XDG_STATE_HOME", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    variables: dict[str, str | None] = {**os.environ, **dict.fromkeys(own), **(environment or {})}
    return subprocess.run(
        [*before, sys.executable, "-m", "brainscale", *map(str, arguments)],
        cwd=folder,
        env={
            **{name: value for name, value in variables.items() if value is not None},
            "PYTHONPATH": os.pathsep.join([str(Path(bs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )


def require_line(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    """One line of an error, with these texts."""
    assert done.returncode in (1, 2), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert all(text in errors[0] for text in texts), errors[0]
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert done.stdout == ""


def require_success(done: subprocess.CompletedProcess[str]) -> None:
    """It worked, and no library spoke of folders."""
    assert done.returncode == 0, done.stderr
    assert not any(name in done.stderr.lower() for name in ("matplotlib", "onnxruntime", "traceback", "ray"))


@as_root
def test_a_user_without_home_and_name(folder: Path, open_folder: Path) -> None:
    nobody = {"before": NOBODY, "environment": {"HOME": None}}
    require_success(run(folder, "index", "scans", "--out", open_folder / "m.parquet", **nobody))
    require_success(run(folder, "score", "run", "scans", "--out", open_folder / "scores", **nobody))
    require_success(run(folder, "predict", "run", "scans/yes/0.jpg", **nobody))
    hashed = run(folder, "score", "run", "scans", "--hash-paths", "--out", open_folder / "hashed", **nobody)
    require_line(hashed, "no home folder to keep the key", "--patient-key FILE", "XDG_STATE_HOME")


@as_root
def test_a_home_that_cannot_be_written(folder: Path, open_folder: Path) -> None:
    at_home = {"before": NOBODY, "environment": {"HOME": str(folder)}}
    require_success(run(folder, "score", "run", "scans", "--out", open_folder / "scores", **at_home))
    hashed = run(folder, "score", "run", "scans", "--hash-paths", "--out", open_folder / "hashed", **at_home)
    require_line(hashed, "cannot be kept", "Permission denied", "--patient-key FILE")


@as_root
@pytest.mark.parametrize(
    "arguments",
    [
        "index scans --out m.parquet",
        "split split.parquet --out s.parquet",
        "score run scans --out scores",
        "train --data split.parquet --out new",
        "evaluate run --split val --out evaluation",
    ],
)
def test_an_output_that_cannot_be_written(folder: Path, arguments: str) -> None:
    done = run(folder, *arguments.split(), before=NOBODY)
    require_line(done, "ermission denied", "give another path")


@as_root
def test_a_run_that_one_may_only_read(folder: Path, open_folder: Path) -> None:
    evaluate = ("evaluate", "run", "--split", "val", "--no-report")
    require_line(run(folder, *evaluate, before=NOBODY), "run/evaluation/val", "name another folder with --out")
    (folder / "run" / "test_looks.jsonl").write_text('{"time": "2026-11')  # half a line, as a kill leaves it
    done = run(folder, "evaluate", "run", "--no-report", "--out", open_folder / "evaluation", before=NOBODY)
    require_success(done)
    assert "Note: run/test_looks.jsonl: line 1 is damaged and not counted" in done.stderr
    assert "Note: the run run cannot be written (Permission denied): this look at its test set" in done.stderr
    assert (open_folder / "evaluation" / "_SUCCESS.json").exists()


def small_disk(place: Path, size: str) -> list[str]:
    """The beginning of a command that finds a small disk there."""
    place.mkdir(exist_ok=True)
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs "{place}" && exec "$@"', "sh"]


@as_root
@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ("index scans --out {disk}/m.parquet", "4k"),
        ("split split.parquet --out {disk}/s.parquet", "4k"),
        ("score run scans --out {disk}/scores", "12k"),
        ("evaluate run --split val --no-report --out {disk}/evaluation", "24k"),
    ],
)
def test_a_disk_that_fills(folder: Path, tmp_path: Path, arguments: str, size: str) -> None:
    disk = tmp_path / "disk"
    done = run(folder, *arguments.format(disk=disk).split(), before=small_disk(disk, size))
    require_line(done, str(disk), "cannot be written (No space left on device): make room and run the same command")


@as_root
def test_a_demo_on_a_disk_that_fills(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    done = run(folder, "demo", "--out", disk / "demo", before=small_disk(disk, "1m"))
    assert done.returncode == 1
    line = f"Error: {disk}/demo cannot be written (No space left on device): make room and run the same command again"
    assert done.stderr.splitlines()[-1].startswith(line)


def test_a_checkpoint_that_is_too_large(folder: Path, tmp_path: Path) -> None:
    """A limit of the size of files stops a training after its first epoch, as a full disk does."""
    train = ["train", "--data", folder / "split.parquet", "--out", tmp_path / "run", *SMALL]
    done = run(folder, *train, before=["prlimit", "--fsize=1000000"])
    require_line(
        done, f"{tmp_path}/run/checkpoints/", "cannot be written (File too large): raise the limit of file sizes"
    )


@as_root
def test_no_temporary_folder_at_all(folder: Path, tmp_path: Path) -> None:
    """Nothing but the output can be written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounts = f'mount -o bind,ro /tmp /tmp; mount -o bind,ro /var/tmp /var/tmp; mount -t tmpfs tmpfs "{disk}"'
    before = ["unshare", "-m", "sh", "-c", f'{mounts} && cd /proc && exec "$@"', "sh"]
    score = ("score", folder / "run", folder / "scans", "--out", disk / "scores")
    require_line(run(folder, *score, before=before, environment={"TMPDIR": None}), "set TMPDIR to a folder")


class _Refuses(BaseHTTPRequestHandler):
    """A server that is not Ray's."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def nobody_there() -> Iterator[str]:
    yield f"127.0.0.1:{free_port()}"


@contextmanager
def silence() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def another_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


Place = Callable[[], AbstractContextManager[str]]


@pytest.mark.parametrize("place", [nobody_there, silence, another_server])
def test_a_ray_that_is_gone(folder: Path, tmp_path: Path, place: Place) -> None:
    with place() as address:
        begun = time.monotonic()
        done = run(folder, "index", "scans", "--out", tmp_path / "m.parquet", environment={"RAY_ADDRESS": address})
        assert time.monotonic() - begun < SOON
    require_line(done, f"no Ray answers at RAY_ADDRESS={address}", "start it, or unset RAY_ADDRESS")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["Indexing", "Error:"]


@pytest.mark.parametrize("place", [nobody_there, silence, another_server])
def test_a_head_that_is_gone(folder: Path, tmp_path: Path, place: Place) -> None:
    with place() as address:
        begun = time.monotonic()
        url = {"BRAINSCALE_ADDRESS": f"http://{address}"}
        done = run(folder, "index", "scans", "--out", tmp_path / "m.parquet", environment=url)
        assert time.monotonic() - begun < SOON
    require_line(done, address, "check ")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("http://127.0.0.1:8265", "is a Jobs URL: unset RAY_ADDRESS, and pass --address http://127.0.0.1:8265"),
        ("head", "(not host:port)"),
        ("no-such-host.invalid:6379", "start it, or unset RAY_ADDRESS"),
    ],
)
def test_an_address_of_another_kind(folder: Path, tmp_path: Path, address: str, text: str) -> None:
    done = run(folder, "index", "scans", "--out", tmp_path / "m.parquet", environment={"RAY_ADDRESS": address})
    require_line(done, f"RAY_ADDRESS={address}", text)


@pytest.mark.parametrize("address", ["", "local"])
def test_an_address_that_is_none_starts_no_ray(folder: Path, tmp_path: Path, address: str) -> None:
    require_success(
        run(folder, "index", "scans", "--out", tmp_path / "m.parquet", environment={"RAY_ADDRESS": address})
    )


@pytest.mark.ray
@as_root
def test_ray_without_a_home_and_below_a_long_folder(folder: Path, open_folder: Path) -> None:
    long = open_folder / ("t" * 60)
    long.mkdir()
    long.chmod(0o777)
    nobody = {"HOME": None, "TMPDIR": str(long)}
    index = ("index", "scans", "--workers", "1", "--out", open_folder / "m.parquet")
    require_success(run(folder, *index, before=NOBODY, environment=nobody))
    left = [path for path in Path("/tmp").glob("brainscale-*") if path.stat().st_uid == int(USER)]  # noqa: S108
    assert left == [], "sockets and logs are removed at the end"
    assert list(long.iterdir()) == []
