"""Write requirements.lock, what runs brainscale, and requirements-dev.lock, what develops it besides.

Versions are those of this environment. Hashes are those that pip's index gives for the wheels it would install, so
they hold wherever pip gets the same wheels from.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NODE_EXTRAS = ("aws",)  # with it the head of cluster.yaml starts its workers
PIP = "pip==26.3"  # asks the index for hashes, where the pip of a new environment downloads every wheel
PYTHONS = ("3.11", "3.12", "3.13")  # those that the Makefile looks for
MANYLINUX = [*(f"manylinux_2_{minor}" for minor in range(28, 4, -1)), "manylinux2014", "manylinux2010", "manylinux1"]
PLATFORMS = {
    "Linux x86_64": [f"{name}_x86_64" for name in MANYLINUX],
    "Linux aarch64": [f"{name}_aarch64" for name in MANYLINUX],
    "macOS arm64": ["macosx_14_0_arm64"],
}
CUDA = ("nvidia-", "cuda-", "triton")  # torch asks for them on Linux only

NODE_HEAD = """\
# What runs brainscale: its dependencies and theirs, and boto3 for a cluster on AWS. Written by `make lock`.
#   pip install --require-hashes -r requirements.lock
# The hashes are those of wheels for CPython 3.11, 3.12 and 3.13 on Linux (glibc 2.28 or newer; x86_64, aarch64) and on
# macOS (14 or newer; arm64). Anything else is refused; there, `pip install .` takes what pyproject.toml allows.
"""
DEV_HEAD = """\
# What develops brainscale, on top of requirements.lock. Written by `make lock`.
#   pip install -r requirements-dev.lock
"""


def main() -> None:
    """Write both files, or neither."""
    if sys.platform != "linux" or sys.version_info[:2] != (3, 11):
        raise SystemExit("make lock needs Linux and Python 3.11: only there is every package needed, and so installed")
    node, everything = node_pins(), all_pins()
    dev = {name: version for name, version in everything.items() if name not in node}
    hashes = wheel_hashes(node)
    (ROOT / "requirements.lock").write_text(NODE_HEAD + as_text(node, hashes), encoding="utf-8")
    (ROOT / "requirements-dev.lock").write_text(DEV_HEAD + as_text(dev, {}), encoding="utf-8")


def node_pins() -> dict[str, str]:
    """Return name → version of what a cluster node needs."""
    return _pins(NODE_EXTRAS)


def all_pins() -> dict[str, str]:
    """Return name → version of what brainscale and all its extras need."""
    return _pins(_project()["optional-dependencies"])


def _pins(extras: Iterable[str]) -> dict[str, str]:
    groups = [_project()["dependencies"], *(_project()["optional-dependencies"][extra] for extra in extras)]
    return closure(requirement for group in groups for requirement in group)


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Return name → installed version of the packages asked for, and of all that these ask for in turn."""
    waiting, seen = [Requirement(text) for text in requirements], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                asked = map(Requirement, metadata.requires(name) or ())
                waiting += [r for r in asked if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name: metadata.version(name) for name in sorted({name for name, _ in seen})}


def wheel_hashes(pins: Mapping[str, str]) -> dict[str, set[str]]:
    """Return name → SHA-256 of the wheels that pip takes, over all platforms and Pythons."""
    hashes: dict[str, set[str]] = defaultdict(set)
    with tempfile.TemporaryDirectory(prefix="brainscale-") as name:
        python = Path(name, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PIP], check=True)
        for platform, tags in PLATFORMS.items():
            wanted = [f"{n}=={v}" for n, v in pins.items() if platform.startswith("Linux") or not n.startswith(CUDA)]
            for version in PYTHONS:
                for wheel in _wheels(python, wanted, version, tags):
                    sha256 = wheel["download_info"]["archive_info"]["hashes"]["sha256"]
                    hashes[canonicalize_name(wheel["metadata"]["name"])].add(sha256)
    return hashes


def _wheels(python: Path, wanted: Sequence[str], version: str, tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return what pip reports of the wheels it would install on another machine.

    Raises:
        SystemExit: a package has no wheel there; pip's own message says which.
    """
    where = [f"--python-version={version}", *(f"--platform={tag}" for tag in tags), "--target=unused"]
    options = ["--quiet", "--dry-run", "--no-deps", "--only-binary=:all:", "--report=-", *where]
    done = subprocess.run(
        [python, "-m", "pip", "install", *options, *wanted], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(
            f"{done.stderr}No lock was written: see above what has no wheel for Python {version}, {tags[0]}."
        )
    wheels: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return wheels


def as_text(pins: Mapping[str, str], hashes: Mapping[str, set[str]]) -> str:
    """Return pins as pip reads them, each with the hashes it has."""
    lines = []
    for name, version in pins.items():
        marker = ' ; platform_system == "Linux"' if name.startswith(CUDA) else ""
        known = [f"--hash=sha256:{sha256}" for sha256 in sorted(hashes.get(name, ()))]
        lines.append(" \\\n    ".join([f"{name}=={version}{marker}", *known]) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    main()
