"""A small study, and pieces whose predictions are made up: no image is read, nothing is trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from brainscale.evaluation.study.data_sets import IndexedData
from brainscale.evaluation.study.files import StudyFile, read_study
from brainscale.evaluation.study.piece_main import EVALUATION
from brainscale.evaluation.study.pieces import Piece, plan_part
from brainscale.evaluation.study.processes import SPENT
from brainscale.evaluation.study.runs import StudyPlan
from brainscale.seeds import derive
from brainscale.storage.local import write_json, write_success
from tests.support import tables
from tests.support.samples import CLASSES

TINY = [
    *("data.image_size=64", "data.crop=1.0", "train.batch_size=8", "train.micro_batch=4", "train.threads=1"),
    "train.epochs=1",
]
DATA = {"scans": {"title": "Scans", "citation": "Nobody, 2026.", "licence": "CC0"}, "others": {"title": "Others"}}
ROWS = {
    "brainmrnet": {"title": "BrainMRNet", "published": {"accuracy": 0.88, "auroc": 0.9167}, "differs": "another set."},
    "paper": {"set": ["model.name=brainmrnet_paper"]},
    "both": {"average": ["brainmrnet", "paper"]},
}
FOLDS = {"title": "Networks", "kind": "folds", "data": "scans", "folds": 2, "recipe": "tiny", "rows": ROWS}


def study(folder: Path, parts: Mapping[str, Mapping[str, Any]] | None = None, **sections: Any) -> StudyFile:
    """A study file with one part by folds, or with other parts."""
    values = {
        "title": "A study",
        "budget_hours": 1,
        "data": DATA,
        "recipes": {"tiny": TINY},
        "parts": parts or {"table": {**FOLDS, "reference": "brainmrnet"}},
        **sections,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return read_study(str(path))


def indexed(name: str = "scans", n: int = 80, doubtful: Sequence[str] = ()) -> IndexedData:
    """Samples of two classes, two in each group, of two sites."""
    groups = [f"{name}{i // 4}" for i in range(n)]
    table = tables.manifest(np.arange(n) // 2 % 2, group=groups)
    table = table.append_column("site", [["A" if i < n // 2 else "B" for i in range(n)]])
    return IndexedData(name=name, manifest=table, doubtful=frozenset(doubtful))


def plan(file: StudyFile, out: Path, *data: IndexedData) -> StudyPlan:
    """The plan of a study."""
    by_name = {each.name: each for each in data or (indexed(),)}
    rows = [
        row
        for name, part in file.study.parts.items()
        if {part.data, part.test_data} - {None} <= by_name.keys()
        for row in plan_part(file, name, by_name)
    ]
    return StudyPlan(files=[file], out=out, data=by_name, rows=rows, left_out={})


def complete(piece: Piece, out: Path, *, shift: float = 2.0, seconds: float = 90.0) -> Path:
    """Make a piece complete, with scores that tell the classes apart by `shift`."""
    folder = out / piece.folder
    if piece.test_manifest is None:
        rows = piece.manifest.filter(pc.equal(piece.manifest["split"], piece.tested))
    else:
        rows = piece.test_manifest
    draw = np.random.default_rng(derive(0, piece.row, piece.condition, piece.seed, piece.repeat, piece.fold))
    is_tumour = np.array(rows["label"].to_pylist()) == CLASSES[1]
    scores = 1 / (1 + np.exp(-draw.normal(size=len(rows)) - shift * (is_tumour - 0.5)))
    tables.evaluation(folder / EVALUATION, piece.manifest, tables.predictions(rows, scores.astype(np.float32)))
    spent = {"seconds": seconds, "cpu_seconds": 2 * seconds, "paused_seconds": 0.0, "starts": 1, "threads": 1}
    write_json(folder / SPENT, {**spent, "processor": "a processor"})
    weights = f"{derive(0, piece.identity):064x}"
    facts = {"weights_sha256": weights, "epochs": 1, "parameters": 1000, "hardware": ["a processor, torch 2"]}
    write_success(folder, {"identity": piece.identity, **facts})
    return folder


def facts_of(folder: Path) -> dict[str, Any]:
    """What `_SUCCESS.json` of a folder says."""
    facts: dict[str, Any] = json.loads((folder / "_SUCCESS.json").read_text(encoding="utf-8"))
    return facts
