"""The built wheel and the demo under each Python that is named: `python .ci/pythons.py python3.12 python3.13`.

Each gets a new environment, with the packages of requirements.lock from pip's index. All must train the same weights.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def try_python(python: str, wheel: Path, folder: Path) -> str:
    """Install the wheel, predict with the shipped model, run the demo, and return the hash of the demo's weights."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements.lock")], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    brainscale, demo = str(folder / "bin" / "brainscale"), folder / "demo"
    subprocess.run([brainscale, "demo", "--out", str(demo)], cwd=folder, check=True, capture_output=True)
    image = str(next(path for path in sorted((demo / "phantoms").rglob("*")) if path.is_file()))
    subprocess.run([brainscale, "predict", "phantoms", image], cwd=folder, check=True)
    facts = json.loads((demo / "run" / "_SUCCESS.json").read_text(encoding="utf-8"))
    return str(facts["weights_sha256"])


def main() -> None:
    """Try each Python, and compare."""
    hashes = set()
    with tempfile.TemporaryDirectory() as name:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", name, str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = Path(name).glob("*.whl")
        for number, python in enumerate(sys.argv[1:]):
            sha256 = try_python(python, wheel, Path(name, str(number)))
            hashes.add(sha256)
            version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout.strip()
            sys.stdout.write(f"{version}: the wheel works, and the demo ends with weights {sha256[:16]}\n")
    sys.exit("the weights differ" if len(hashes) > 1 else 0)


if __name__ == "__main__":
    main()
