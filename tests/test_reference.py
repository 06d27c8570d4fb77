"""docs/reference.md is what the code says, the README has the table of results, and every error code has a meaning."""

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

from brainscale.errors import ERROR_CODES

ROOT = Path(__file__).parents[1]


def test_the_reference_is_what_the_code_says() -> None:
    page = runpy.run_path(str(ROOT / ".ci" / "reference.py"))["page"]()
    assert (ROOT / "docs" / "reference.md").read_text(encoding="utf-8") == page, "run `make reference`"


def test_the_readme_begins_with_the_table_of_results() -> None:
    page = runpy.run_path(str(ROOT / ".ci" / "readme.py"))["page"]()
    assert (ROOT / "README.md").read_text(encoding="utf-8") == page, "run `make reference`"
    assert page.index("leak-free, 95 % interval") < page.index("## Start")


def codes_of(path: Path) -> Iterator[str]:
    """Codes that a module gives to SampleError, or writes into the column itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "SampleError":
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))
        if isinstance(node, ast.keyword) and node.arg == "error_code" and isinstance(node.value, ast.Constant):
            yield node.value.value


def test_every_error_code_of_the_code_has_a_meaning() -> None:
    used = {code for path in (ROOT / "brainscale").rglob("*.py") for code in codes_of(path) if code}
    assert len(used) > 15
    assert used <= ERROR_CODES.keys()
