"""What many tests share: a command runner, images made on the spot, real scans where they are, one Ray."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings
from PIL import Image

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it

SHARED = Path(os.environ.get("BRAINSCALE_SHARED", Path(__file__).parents[2] / "shared"))


def shared(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"NOT TESTED: {relative} is not here; set BRAINSCALE_SHARED to the folder that has it")
    return path


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """253 public MRI images in yes/ and no/."""
    return shared("data/brain_mri_253")


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Run the command line in this process."""
    from brainscale.cli.main import main

    return lambda *args: CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The session's one Ray."""
    import ray

    from brainscale.cluster import session

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # of servers that tests start; its workers inherit them
        os.environ.setdefault(name, "testing")
    with session.session(4):
        yield
    assert not ray.is_initialized()


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "L") -> Path:
    """A small image of smooth noise, width × height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 phantoms in yes/ and no/."""
    from brainscale.dataset.phantoms import write_set

    folder = tmp_path_factory.mktemp("phantoms")
    write_set(folder, 60, seed=7, size=80)
    return folder


@pytest.fixture(scope="session")
def scans(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real scans in yes/ and no/ where they are at hand, the phantoms elsewhere."""
    real = SHARED / "data" / "brain_mri_253"
    if not real.exists():
        return phantoms
    folder = tmp_path_factory.mktemp("scans")
    for side in ("yes", "no"):
        (folder / side).mkdir()
        for path in sorted((real / side).iterdir())[:30]:
            shutil.copy(path, folder / side)
    return folder
