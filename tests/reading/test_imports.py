"""What reading loads: samples are read without Ray and torch, and the libraries of the formats stay in the child."""

import subprocess
import sys

CODE = """
import sys
before = set(sys.modules)
import brainscale.reading.{}
print(*{{name.partition(".")[0] for name in set(sys.modules) - before}})
"""
READER = {"annotated_types", "cloudpickle", "cython_runtime", "numpy", "pyarrow", "pydantic", "pydantic_core"}
READER |= {"typing_extensions", "typing_inspection", "yaml"}
DECODER = READER - {"pyarrow", "yaml"} | {"PIL"}


def packages_loaded_by(module: str) -> set[str]:
    """Packages that an import loads besides Python's own and ours."""
    command = [sys.executable, "-c", CODE.format(module)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {name for name in set(names) - sys.stdlib_module_names - {"brainscale"} if not name.startswith("_")}


def test_the_reader_loads_only_what_tables_need() -> None:
    assert packages_loaded_by("reader") <= READER


def test_the_decoder_loads_the_library_of_a_format_with_its_first_file() -> None:
    assert packages_loaded_by("decoder") <= DECODER
