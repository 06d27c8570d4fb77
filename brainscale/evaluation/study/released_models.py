"""The predictions of all complete models in one table, so that a study can resume on another machine."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.errors import OutputError
from brainscale.evaluation.results import PREDICTIONS_FILE
from brainscale.evaluation.study.arguments import read_models
from brainscale.evaluation.study.data_sets import released_ids
from brainscale.evaluation.study.piece_main import EVALUATION, MODEL_FACTS
from brainscale.evaluation.study.pieces import Piece, RowPlan
from brainscale.evaluation.study.predictions import read_piece
from brainscale.evaluation.study.processes import SPENT, TAKEN, Spent, read_spent
from brainscale.evaluation.study.runs import StudyPlan
from brainscale.schema import STUDY_MODELS
from brainscale.storage.local import make_folder, read_success, write_json, write_success
from brainscale.storage.tables import write_table

MODELS_FILE = "models.parquet"


def released_models(plan: StudyPlan) -> pa.Table:
    """Return a table of schema STUDY_MODELS with the complete models of the studies.

    Raises:
        OutputError: predictions are missing or damaged.
    """
    done, released = plan.done(), dict[str, dict[str, Any]]()
    for row, piece in _pieces(plan):
        if piece.identity in done and piece.identity not in released:
            released[piece.identity] = _release(piece, _samples(plan, row, piece), done[piece.identity])
    return pa.Table.from_pylist(list(released.values()), schema=STUDY_MODELS)


def find_released(table_file: str, plan: StudyPlan) -> dict[str, dict[str, Any]]:
    """Return identity → row of the planned models that a table of released models has and that are not complete.

    Raises:
        OutputError: the table cannot be read.
    """
    table = read_models(table_file)
    wanted = {piece.identity for _, piece in _pieces(plan)} - plan.done().keys()
    return {row["identity"]: row for row in table.to_pylist() if row["identity"] in wanted}


def take_models(table_file: str, plan: StudyPlan) -> int:
    """Complete the planned models that are in a table of released models; return how many were not before.

    Args:
        table_file: the table.
        plan: the studies.

    Raises:
        OutputError: the table cannot be read, or a model predicted samples that its data set does not have.
    """
    released = find_released(table_file, plan)
    left = dict(released)
    for row, piece in _pieces(plan):
        if (model := left.pop(piece.identity, None)) is not None:
            _take(model, _samples(plan, row, piece), piece, plan.out / piece.folder)
    return len(released)


def _pieces(plan: StudyPlan) -> Iterator[tuple[RowPlan, Piece]]:
    return ((row, piece) for row in plan.rows for piece in row.pieces)


def _release(piece: Piece, samples: pa.Table, folder: Path) -> dict[str, Any]:
    facts, model = read_success(folder) or {}, read_piece(piece, folder)
    kept = samples.take(pc.index_in(pa.array(model.sample_ids), samples["sample_id"].combine_chunks()))
    return {
        **{name: getattr(piece, name) for name in ("identity", "study", "part", "row", "condition", "repeat", "fold")},
        "seed": piece.config.train.seed,
        "config_sha256": piece.config_sha256,
        **{name: facts[name] for name in MODEL_FACTS},
        **asdict(read_spent(folder)),
        "threshold": model.threshold,
        "sample_ids": kept["released_id"].to_pylist(),
        "probabilities": model.scores.tolist(),
    }


def _take(released: Mapping[str, Any], samples: pa.Table, piece: Piece, folder: Path) -> None:
    """Write the folder of a complete piece, without the model itself."""
    rows = pc.index_in(pa.array(released["sample_ids"]), samples["released_id"].combine_chunks())
    if rows.null_count:
        raise OutputError(
            f"{piece.title}: the released model predicted samples that are not here: give the same data, or leave out "
            "--models"
        )
    tested = samples.take(rows).select(["sample_id", "label"])
    predictions = tested.append_column("probability", pa.array(released["probabilities"], pa.float32()))
    make_folder(folder / EVALUATION)
    write_table(predictions, folder / EVALUATION / PREDICTIONS_FILE, "predictions")
    write_success(folder / EVALUATION, {"threshold": released["threshold"]})
    write_json(folder / SPENT, {name: released[name] for name in Spent.__dataclass_fields__})
    facts = {"identity": piece.identity, **{name: released[name] for name in MODEL_FACTS}}
    write_success(folder, facts | {TAKEN: True})


def _samples(plan: StudyPlan, row: RowPlan, piece: Piece) -> pa.Table:
    """Return sample_id, label and released_id of the samples that a piece may be tested on."""
    samples = piece.manifest if piece.test_manifest is None else piece.test_manifest
    ids = released_ids(samples, hide_ids=plan.hides_ids(row.data_name))
    return samples.select(["sample_id", "label"]).append_column("released_id", ids)
