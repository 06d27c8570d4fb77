"""What many tests share: a command runner, scans, a model, one Ray."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from brainscale.evaluation.study.pausing import hold_busy
from brainscale.models.bundle import Bundle, open_bundle
from tests.support.images import write_image  # noqa: F401
from tests.support.runs import Invoke, invoke
from tests.support.shared import SHARED, shared

for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):  # not this user's own keys and choices
    os.environ[name] = tempfile.mkdtemp(prefix="brainscale-tests-")
    atexit.register(shutil.rmtree, os.environ[name], ignore_errors=True)
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it


@pytest.fixture(scope="session", autouse=True)
def _busy() -> Iterator[None]:
    """Pause long computations of this checkout while its tests run; a study in a test names another file, or none."""
    with hold_busy():
        yield


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """253 public MRI images in yes/ and no/."""
    return shared("data/brain_mri_253")


@pytest.fixture(name="invoke")
def run_in_this_process() -> Invoke:
    """Run the command line in this process."""
    return invoke


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model folder of BrainMRNet with 64-pixel planes."""
    from tests.support.bundles import make_bundle, network_with_statistics

    return make_bundle(tmp_path_factory.mktemp("b") / "model", network_with_statistics("brainmrnet"), "brainmrnet")


@pytest.fixture(scope="session")
def int8_run(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped model on phantoms that it was not trained on, with its int8 graph; not to be changed."""
    from brainscale.models.shipped import shipped_folders
    from brainscale.training.quantising import quantise_run
    from tests.support.evaluating import make_run

    model = open_bundle(shipped_folders()["phantoms"])
    run = make_run(tmp_path_factory.mktemp("int8") / "run", model, phantoms, val=0.4, test=0.1)
    quantise_run(str(run))
    return run


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


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 phantoms in yes/ and no/."""
    from brainscale.dataset.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 60, seed=7, size=80)
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
