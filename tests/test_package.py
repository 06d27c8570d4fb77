"""The wheel: what an installed brainscale has with it."""

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import brainscale

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    # No isolation: the build back end is in the lock, so this needs no network.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.Path(path)


def test_configurations_jobs_and_types_are_inside(wheel: zipfile.Path) -> None:
    inside = set(wheel.root.namelist())
    expected = {f"brainscale/configs/{p.name}" for p in (ROOT / "configs").glob("*.yaml")}
    expected |= {f"brainscale/jobs/{p.name}" for p in (ROOT / "jobs").glob("*.py")}
    assert len(expected) >= 2
    expected |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "brainscale").rglob("*") if p.suffix in {".py", ".j2"}}
    assert expected | {"brainscale/py.typed"} <= inside
    assert not {name for name in inside if name.startswith(("tests/", "benchmarks/"))}


def test_the_version_is_one(wheel: zipfile.Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    (metadata,) = (name for name in wheel.root.namelist() if name.endswith(".dist-info/METADATA"))
    built = Parser().parsestr(wheel.root.read(metadata).decode())["Version"]
    assert brainscale.__version__ == declared == built
