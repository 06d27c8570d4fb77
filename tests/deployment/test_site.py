"""The documentation as a site, and the images: what they are made of is there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ("docs", ".ci", "configs", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml", "cluster.yaml")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the site is made of."""
    for name in SITE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_site_has_every_page_and_no_broken_link(checkout: Path) -> None:
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    pages = {path.parent.name for path in (checkout / "site").rglob("index.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages
    assert (checkout / "site" / "files" / "cluster.yaml").read_bytes() == (ROOT / "cluster.yaml").read_bytes()


@pytest.mark.parametrize("link", ["train.md#no-such-part", "no-such-page.md", "../configs/no-such.yaml"])
def test_a_broken_link_is_found(checkout: Path, link: str) -> None:
    with (checkout / "docs" / "score.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[broken]({link})\n")
    done = build(checkout)
    assert done.returncode != 0
    assert Path(link.partition("#")[0]).name in done.stderr


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "configs/cluster/Dockerfile"])
def test_an_image_copies_what_is_there_and_installs_the_lock(dockerfile: str) -> None:
    """No image can be built without a container engine; what it would copy and install can be checked."""
    text = (ROOT / dockerfile).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE)
    copied = [re.sub(r"--\S+ ", "", line).split()[:-1] for line in lines]
    assert all((ROOT / name).exists() for names in copied for name in names)
    assert "pip install --no-cache-dir --require-hashes -r /tmp/requirements.lock" in text
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {f"!{name}" for names in copied for name in names} <= set(ignored)
