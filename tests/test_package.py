import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

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
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/"))]


def test_an_installed_package_finds_its_configurations_from_any_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from brainscale import __file__ as f; from brainscale.config import sections as config; print(f); "
        "print(config.load('published').train.optimizer, config.resource_folder('jobs'))"
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
