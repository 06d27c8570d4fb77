"""Libraries are loaded with the first file that needs them, beside the limit of memory, and in a child that waits."""

import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
from pydicom.valuerep import STANDARD_VR

from brainscale.config.data_sections import PreprocessConfig
from brainscale.reading import libraries, spawning
from brainscale.reading.formats import recognition
from brainscale.reading.libraries import load
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox

LIMITED = """
import resource
from brainscale.reading.libraries import limit_memory, load
def fits(mib):
    try:
        return bool(bytearray(mib * 2**20))
    except MemoryError:
        return False
limit_memory(64)
before = resource.getrlimit(resource.RLIMIT_AS)
print(fits(32), fits(128))
load("pydicom"), load("nibabel"), load("openjpeg.utils")
after = resource.getrlimit(resource.RLIMIT_AS)
print(before[0] < after[0] < before[1], after[1] == before[1])
print(fits(32), fits(128))
"""
CHECKED = """
from brainscale.errors import SampleError
from brainscale.reading.reader import check_confinement
try:
    print(sorted(check_confinement().to_json()))
except SampleError as error:
    print(error)
"""
UNUSED = """
from brainscale.reading import spawning
spawning.start_spare()
print(spawning._spares[spawning.DECODER].process.pid)
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: only Linux limits the memory of a process so")
def test_what_libraries_take_is_beside_the_limit() -> None:
    assert run(LIMITED).splitlines() == ["True False", "True True", "True False"]


def test_without_a_limit_a_library_is_only_loaded() -> None:
    assert libraries._statm is None
    assert load("json").loads("[1]") == [1]


def test_the_representations_of_dicom_are_pydicoms() -> None:
    assert set(recognition._VRS) == {str(name).encode() for name in STANDARD_VR}


def test_a_sandbox_takes_the_child_that_waits() -> None:
    spawning.start_spare()
    spawning.start_spare()  # one is enough
    waiting = spawning._spares[spawning.DECODER].process.pid
    settings = ReadRequest(preprocess=PreprocessConfig()).to_json()
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(closing(Sandbox(spawning.DECODER, settings, seconds=10))) for _ in range(2)
        )
        assert first.start() == second.start()
        assert first.pid == waiting != second.pid
    assert not spawning._spares


def test_a_child_that_nobody_takes_ends_with_its_parent() -> None:
    pid, deadline = int(run(UNUSED)), time.monotonic() + 30
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_library_that_is_missing_is_found_before_a_file_needs_it(tmp_path: Path) -> None:
    assert "network" in run(CHECKED)
    (tmp_path / "nibabel.py").write_text("raise ImportError('no such library')", encoding="utf-8")
    text = "the library of a format cannot be loaded (no such library): install brainscale again"
    assert text in run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{CHECKED}")
