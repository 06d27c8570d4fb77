import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import brainscale

ROOT = Path(__file__).parents[1]


def test_configurations_and_jobs_travel_in_the_wheel(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "jobs"):
        for path in (p for p in (ROOT / folder).iterdir() if p.is_file()):
            assert f"brainscale/{folder}/{path.name}" in names
    assert {"brainscale/py.typed", "brainscale/evaluation/report/report.html.j2"} <= names
    pages = ("page.css", "parts.html.j2", "pairs.html.j2", "audit.html.j2")
    assert {f"brainscale/dataset/pages/{name}" for name in pages} <= names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/"))]


def test_an_installed_package_finds_its_configurations_from_any_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from brainscale import __file__ as f; from brainscale.config import files as config; print(f); "
        "print(config.load_config('published').train.optimizer, config.resource_folder('jobs'))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=True
    )
    where, found = done.stdout.splitlines()
    assert where.startswith(str(tmp_path / "site"))
    assert found == f"adam {tmp_path}/site/brainscale/jobs"


def test_one_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == brainscale.__version__


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s\\]+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    """What `make lock` runs."""
    return runpy.run_path(str(ROOT / ".ci" / "lock.py"))


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the locks are made with Python 3.11")
def test_the_locks_hold_what_pyproject_asks_for_and_nothing_twice(maker: dict[str, Any]) -> None:
    node, dev, everything = maker["node_pins"](), pins("requirements-dev.lock"), maker["all_pins"]()
    assert pins("requirements.lock") == node
    assert dev == {name: version for name, version in everything.items() if name not in node}
    assert {"ray", "torch", "boto3"} <= node.keys()
    assert {"pytest", "ruff", "mypy", "moto", "import-linter", "hatchling"} <= dev.keys()


def test_every_pin_of_a_node_has_hashes_and_no_lock_names_an_index() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=\S)", text.rstrip("\n")) if not entry.startswith("#")]
    assert len(entries) == len(pins("requirements.lock")) > 100
    pin, marker = r"[\w.-]+==\S+", r"(?: ; platform_system == \"Linux\")?"
    for entry in entries:
        assert re.fullmatch(rf"{pin}{marker}(?: \\\n    --hash=sha256:[0-9a-f]{{64}})+", entry), entry
    assert "://" not in text + (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")


def test_a_lock_reads_as_it_was_written(maker: dict[str, Any]) -> None:
    text = maker["as_text"]({"nvidia-nvtx": "1.0", "six": "2.0"}, {"six": {"b" * 64, "a" * 64}})
    assert text == (
        'nvidia-nvtx==1.0 ; platform_system == "Linux"\n'
        f"six==2.0 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}\n"
    )
