"""The import rule of pyproject.toml holds, and an import that breaks it is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_import_keeps_to_the_rooms() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("stats/metrics.py", "import brainscale.training.worker", "a room imports the rooms below it"),
        ("models/registry.py", "import brainscale.reading.reader", "models know no reading, cluster no stats"),
        ("storage/local.py", "import ray", "pure rooms know no Ray"),
        ("dataset/splits.py", "import ray", "Ray stays in cluster, training and on_ray"),
        ("scoring/listing.py", "import torch", "torch stays in models and training"),
        ("training/step.py", "import click", "only the command line knows click and rich"),
        ("stats/estimate.py", "import brainscale.stats.metrics", "no circles inside a room"),
    ],
)
def test_an_import_that_breaks_the_rule_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copytree(ROOT / "brainscale", tmp_path / "brainscale", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "brainscale" / module
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout


def test_the_top_of_the_package_is_small() -> None:
    assert len(list((ROOT / "brainscale").glob("*.py"))) <= 12
