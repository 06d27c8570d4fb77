"""The built wheel, installed in a new environment outside the checkout, as `pip install brainscale` would."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from brainscale.config.files import load_config
from brainscale.dataset.phantoms import draw_phantom
from brainscale.version import __version__

ROOT = Path(__file__).parents[1]
Run = Callable[..., str]


@pytest.fixture(scope="module", name="run")
def install(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the installed command in a folder outside the checkout; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    target = sysconfig.get_path("purelib", "venv", {"base": str(environment), "platbase": str(environment)})
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--quiet", str(wheel)], check=True, capture_output=True)
    # a folder that is only named is searched after the wheel, and the links to checkouts in it do not count
    Path(target, "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    work = folder / "work"
    work.mkdir()
    Image.fromarray(draw_phantom(1, 0, tumour=True)).save(work / "scan.png")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [str(environment / "bin" / "brainscale"), *arguments]
        done = subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [str(environment / "bin" / "python"), "-c", "import brainscale; print(brainscale.__file__)"]
    imported = subprocess.run(where, cwd=work, env=clean, capture_output=True, text=True, check=True).stdout
    assert Path(imported.strip()).is_relative_to(environment)
    return run


def test_it_knows_its_version(run: Run) -> None:
    assert __version__ in run("--version")


def test_it_brings_a_model_that_predicts(run: Run) -> None:
    (listed,) = json.loads(run("models", "--json"))
    assert (listed["model"], listed["shipped"], listed["problem"]) == ("phantoms", True, None)
    (row,) = json.loads(run("predict", "phantoms", "scan.png", "--json"))
    assert 0 <= row["probability"] <= 1


def test_it_brings_its_configurations(run: Run) -> None:
    assert yaml.safe_load(run("config", "show", "demo")) == load_config("demo").model_dump(mode="json")
