"""The floors of the layout: a module imports brainscale modules of lower floors only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "brainscale"

# A package's modules stand on one floor and may import each other. Halves stand between two floors of the layout.
FLOORS: dict[str, float] = {
    "errors": 0,
    "schema": 0,
    "seeds": 0,
    "checkpoints": 1,
    "config": 1,
    "files": 1,
    "formats": 1,
    "progress": 1,
    "sources": 1,
    "augment": 2,
    "export": 2,
    "metrics": 2,
    "models": 2,
    "phantoms": 2,
    "preprocess": 2,
    "splits": 2,
    "bundle": 3,
    "reading": 3,
    "pipeline": 3.5,
    "engine": 4,
    "exact": 4,
    "index": 4,
    "tensors": 4,
    "train_loop": 4.5,
    "report": 5,
    "score": 5,
    "train": 5,
    "evaluate": 6,
    "cluster": 7,
    "compare": 7,
    "demo": 8,
    "cli": 9,
}


def names() -> list[str]:
    """Dotted name of each module, without the leading package."""
    paths = sorted(p.relative_to(PACKAGE).with_suffix("") for p in PACKAGE.rglob("*.py"))
    return [".".join(p.parts) for p in paths if p.parts != ("__init__",)]


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and unit (top-level module or sub-package) of each brainscale import, inside functions too."""
    here = ["brainscale", *module.split(".")]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from ..x import y`: as many parts off this module's name as there are dots.
            base = [*here[: len(here) - node.level], node.module] if node.level else [node.module]
            prefix = ".".join(part for part in base if part)
            targets = [f"{prefix}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            root, _, rest = target.partition(".")
            # What brainscale/__init__.py itself defines, such as __version__, stands below every floor.
            if root == "brainscale" and rest and not rest.startswith("__"):
                yield node.lineno, rest.split(".")[0]


def offences(module: str, source: str) -> list[str]:
    unit = module.split(".")[0]
    found = []
    for line, other in imported(source, module):
        if other == unit:
            continue
        if other not in FLOORS:
            found.append(f"{module}:{line} imports {other}, which has no floor: add it to FLOORS")
        elif FLOORS[other] >= FLOORS[unit]:
            found.append(f"{module}:{line} (floor {FLOORS[unit]}) imports {other} (floor {FLOORS[other]})")
    return found


def test_the_table_names_every_module_and_nothing_else() -> None:
    units = {name.split(".")[0] for name in names()}
    assert not units - FLOORS.keys(), f"no floor for {sorted(units - FLOORS.keys())}: add them to FLOORS in {__file__}"
    assert not FLOORS.keys() - units, f"FLOORS names {sorted(FLOORS.keys() - units)}, which are gone: remove them"


@pytest.mark.parametrize("module", names())
def test_imports_go_down(module: str) -> None:
    if module.split(".")[0] not in FLOORS:
        pytest.fail(f"{module} has no floor: add it to FLOORS in {__file__}")
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert not offences(module, source)


@pytest.mark.parametrize(
    ("module", "source", "caught"),
    [
        ("index", "from brainscale.reading import rows", False),
        ("index", "from brainscale import __version__", False),
        ("models.registry", "from brainscale.models import baselines", False),
        ("models.registry", "from . import baselines", False),
        ("index", "from brainscale.tensors import Blocks", True),  # the same floor
        ("index", "import brainscale.cli as cli", True),
        ("index", "def late():\n    from brainscale import train", True),
        ("models.registry", "from ..bundle import open_bundle", True),
        ("index", "from brainscale.nowhere import x", True),
    ],
)
def test_the_rule_catches_what_it_should(module: str, source: str, caught: bool) -> None:
    assert bool(offences(module, source)) is caught
