"""Bulk inference: units → predictions → Parquet parts. A rerun scores what the parts do not hold."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import ActorPoolStrategy, Dataset

from brainscale import engine as engines
from brainscale.bundle import Bundle, open_bundle
from brainscale.calls import predicted, tumour
from brainscale.decoding import Wish
from brainscale.errors import ClusterError, OutputError, SourceError
from brainscale.files import output_folder, read_success, refuse_strangers, write_success
from brainscale.ledger import read_ledger, write_part
from brainscale.pipeline import over_units
from brainscale.preprocess import spec_fingerprint
from brainscale.reading import read_tables
from brainscale.resources import capacity
from brainscale.schema import PREDICTIONS, SUCCESS
from brainscale.sources import Unit, listing

BATCH = 32
"""Planes in one call of an engine."""
PART_ROWS = 512
"""Rows in one part, about: what is lost and done again when a job is killed."""

OnPart = Callable[[int, int], None]


def score(
    model: str,
    sources: Sequence[str],
    out: str,
    *,
    engine: str = "auto",
    workers: int = 1,
    on_start: Callable[[int], None] = lambda total: None,
    on_part: OnPart = lambda files, errors: None,
) -> dict[str, Any]:
    """Score every file of the sources; run again, go on where it stopped.

    Needs a connected Ray.

    Args:
        model: a RUN or a bundle folder.
        sources: folders, files, globs or addresses.
        out: the folder of parts.
        engine: auto, onnx or torch.
        workers: engines side by side.
        on_start: called once with the number of files still to score.
        on_part: called with the finished files and the errors of each part as it is written.

    Returns:
        What `_SUCCESS.json` says; of a folder that was complete before, also how many files of the sources
        are not in it.

    Raises:
        BrainscaleError: no model, no files, the folder is another model's, or rows do not add up.
    """
    bundle = open_bundle(model)
    units = listing(sources)
    folder = output_folder(out)
    identity = identity_of(bundle)
    refuse_strangers(folder, {SUCCESS} | {p.name for p in folder.glob("part-*.parquet")}, "scores")
    there = read_ledger(folder, identity)
    todo = [unit for unit in units if not there.has(unit)]
    finished = read_success(folder)
    if finished is not None:
        return {**finished, "files_not_in_it": len(todo)} if todo else finished
    if strange := sorted(set(there.samples) - {unit.sample_id for unit in units}):
        raise OutputError(
            f"{folder} holds rows of {len(strange)} file(s) of other sources, '{strange[0]}' first: name all its "
            "sources again, or choose a new --out"
        )
    on_start(len(todo))
    if todo:
        write = partial(write_part, folder=str(folder), identity=identity)
        scored = predictions(todo, bundle, engine, workers, rows=PART_ROWS, skip=there.of(todo))
        for part in scored.map_batches(write, batch_format="pyarrow", batch_size=None, num_cpus=0.1).iter_rows():
            on_part(part["files"], part["errors"])
    return _complete(folder, units, identity, bundle)


def predictions(
    units: Sequence[Unit],
    bundle: Bundle,
    engine: str,
    workers: int,
    rows: int,
    skip: frozenset[str] = frozenset(),
) -> Dataset:
    """A lazy table of schema PREDICTIONS with `unit_rows`, one row for each sample of the units.

    Args:
        units: what to score.
        bundle: with what.
        engine: auto, onnx or torch.
        workers: engines side by side; each takes a GPU where torch runs on them.
        rows: in a block of the result, about.
        skip: ids that are not wanted.

    Raises:
        ClusterError: the cluster can never give so many workers their place.
    """
    resources = capacity()
    gpus = resources.get("GPU", 0)
    chosen = engines.choose(engine, gpus)
    on_gpu = chosen == "torch" and gpus > 0
    have = gpus if on_gpu else resources.get("CPU", 0) - 1  # reading needs a CPU beside the engines
    if have < workers:
        kind = "GPUs" if on_gpu else "CPUs beside one for reading"
        raise ClusterError(f"{workers} scoring workers need {workers} {kind}, and the cluster can have {have:g}")
    wish = Wish(spec=bundle.card.preprocess)
    planes = over_units(units, partial(read_tables, wish=wish, skip=skip)).dataset
    return planes.map_batches(
        ScoreBlock,
        fn_constructor_args=(bundle, chosen, "cuda" if on_gpu else "cpu", workers),
        compute=ActorPoolStrategy(size=workers),
        batch_format="pyarrow",
        batch_size=rows,
        num_cpus=1,
        num_gpus=1 if on_gpu else None,
    )


class ScoreBlock:
    """An engine that turns blocks of planes into blocks of predictions; lives in a Ray actor."""

    def __init__(self, bundle: Bundle, engine: str, device: str, workers: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // workers)
        self._engine = engines.load(bundle, engine, device=device, threads=threads)
        self._card = bundle.card

    def __call__(self, block: pa.Table) -> pa.Table:
        """Rows with planes → rows of schema PREDICTIONS; a row without a plane keeps its error."""
        size = self._card.preprocess.image_size
        present = pc.is_valid(block["plane"]).to_numpy()
        encoded = block["plane"].drop_null().to_pylist()
        planes = np.frombuffer(b"".join(encoded), np.uint8).reshape(-1, size, size)
        pieces = [self._engine(planes[at : at + BATCH]) for at in range(0, len(planes), BATCH)]
        known = np.concatenate(pieces) if pieces else np.empty((0, len(self._card.classes)), np.float32)
        return to_predictions(
            block, present, known, self._card.threshold, list(self._card.classes), self._card.weights_sha256
        )


def to_predictions(
    block: pa.Table,
    present: np.ndarray,
    known: np.ndarray,
    threshold: float,
    classes: Sequence[str],
    model: str,
) -> pa.Table:
    """Put probabilities beside the samples they belong to.

    Args:
        block: rows with sample_id, uri, member, frame, sha256, error_code and error.
        present: bool [rows], which of them have probabilities.
        known: float32 [present rows, classes], in the block's order.
        threshold: of the probability of a tumour.
        classes: names in the order of the columns.
        model: sha256 of the weights.
    """
    finite = np.isfinite(known).all(1)
    lost = _spread((~finite).tolist(), present, pa.bool_()).fill_null(False)  # scored, but not with numbers
    present, known = present & ~lost.to_numpy(zero_copy_only=False), known[finite]
    filled = {
        "prediction": _spread([classes[i] for i in predicted(known, threshold)], present, pa.string()),
        "probability": _spread(tumour(known).tolist(), present, pa.float32()),
        "probabilities": _spread(known.tolist(), present, pa.list_(pa.float32())),
        "model": pa.array([model] * len(block), pa.string()),
        "error_code": pc.if_else(lost, "not_finite", block["error_code"]),
        "error": pc.if_else(lost, "the model's output is not a number", block["error"]),
    }
    empty = pa.nulls(len(block))
    columns = {name: block[name] for name in block.column_names} | filled
    scored = pa.table([columns.get(f.name, empty).cast(f.type) for f in PREDICTIONS], schema=PREDICTIONS)
    return scored.append_column("unit_rows", block["unit_rows"])


def _spread(values: list[Any], present: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values at the present rows, null elsewhere."""
    remaining = iter(values)
    return pa.array([next(remaining) if here else None for here in present], kind)


def identity_of(bundle: Bundle) -> dict[str, str]:
    """What decides a score; every part carries it in its metadata, and a folder holds one identity only."""
    card = bundle.card
    return {
        "model": card.weights_sha256,
        "preprocess": spec_fingerprint(card.preprocess),
        "threshold": repr(card.threshold),
        "classes": json.dumps(list(card.classes)),
    }


def _complete(folder: Path, units: Sequence[Unit], identity: dict[str, str], bundle: Bundle) -> dict[str, Any]:
    """Check the rows against the listing, then say that the folder is complete."""
    there = read_ledger(folder, identity)
    missing = [unit.sample_id for unit in units if not there.has(unit)]
    for problem, ids in (("missing", missing), ("there twice", there.twice)):
        if ids:
            raise OutputError(
                f"{folder}: {len(ids)} file(s) or row(s) {problem}, '{ids[0]}' first: run again, or choose a new --out"
            )
    rows, errors = sum(map(len, there.samples.values())), sum(there.codes.values())
    if errors == rows:
        codes = ", ".join(f"{code} {count}" for code, count in there.codes.items())
        raise SourceError(f"none of the {errors} files could be read ({codes}): the rows in {folder} say why")
    facts = {
        "files": len(units),
        "rows": rows,
        "scored": rows - errors,
        "errors": there.codes,
        "architecture": bundle.card.architecture,
        **identity,
    }
    write_success(folder, facts)
    return facts
