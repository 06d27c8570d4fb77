"""Imports go down the floors only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "brainscale"
FLOORS = [
    ["errors", "logs", "allocator", "schema", "seeds", "models.__init__"],
    ["settings", "placement"],
    ["calls", "config", "names", "nearness", "isolation", "files", "progress", "console", "keys"],
    ["storage", "wish", "notices", "tracking", "telemetry", "looks"],
    ["manifest", "mirror"],
    [
        "sources",
        "archives",
        "formats.frame",
        "formats.raster",
        "formats.dicom",
        "formats.dicom_transforms",
        "formats.nifti",
        "formats.__init__",
    ],
    ["preprocess", "augment", "splits", "phantoms", "exact", "checkpoints", "sampler", "trace", "restarts"],
    ["intervals", "weighted"],
    ["calibration", "operating", "pairs"],
    ["bootstrap"],
    [
        "metrics",
        "models.resampling",
        "models.normalisation",
        "models.brainmrnet",
        "models.inference",
        "models.winograd",
        "models.baselines",
        "models.registry",
        "models.scorer",
        "models.cost",
    ],
    ["decoding", "bundle", "export", "learner", "subgroups"],
    ["reading", "engine", "scans", "heatmaps", "autoscaler"],
    [
        "pipeline",
        "resources",
        "report.words",
        "report.claim",
        "report.curves",
        "report.plots",
        "report.charts",
        "report.html",
        "report.card",
        "report.__init__",
    ],
    ["index", "tensors", "predict", "ledger"],
    ["audit", "overlap", "train_loop", "score", "runs"],
    ["results", "choice", "verify"],
    ["train", "evaluate", "inventory"],
    ["compare", "cluster", "folds"],
    ["demo", "jobs"],
    ["commands.options", "commands.data", "commands.models", "commands.scoring", "commands.jobs", "commands.__init__"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """brainscale modules that a file imports, anywhere in it; a package counts as its __init__."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {known(a.name) for a in node.names if a.name.split(".")[0] == "brainscale"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import: write it out"
            if str(node.module).split(".")[0] == "brainscale":
                inner = {known(f"{node.module}.{a.name}", or_else=str(node.module)) for a in node.names}
                found |= inner - {"__version__"}
    return found


def known(dotted: str, or_else: str | None = None) -> str:
    """The module's name in the table; of a name in a module, the module's; else the name as it stands."""
    name = dotted.removeprefix("brainscale").lstrip(".")
    for candidate in (name, f"{name}.__init__"):
        if candidate in FLOOR:
            return candidate
    return known(or_else) if or_else and or_else != "brainscale" else name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_lower_floors_only(path: Path) -> None:
    name = name_of(path)
    assert name in FLOOR, f"enter {name} in the table of this test"
    room = name.split(".")[0] if "." in name else None
    for other in imported(path) - {name}:
        assert other in FLOOR, f"{name} imports {other}, which is not in the table"
        inside = room is not None and other.split(".")[0] == room
        assert FLOOR[other] < FLOOR[name] or inside, f"{name} (floor {FLOOR[name]}) imports {other} ({FLOOR[other]})"


def test_the_table_holds_no_ghosts() -> None:
    assert set(FLOOR) == {name_of(p) for p in MODULES}
