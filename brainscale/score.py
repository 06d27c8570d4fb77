"""Bulk inference: units → predictions → Parquet parts that are their own ledger.

A part is written aside and renamed to a name made from its sample ids. A rerun reads the ids of the parts
that are there and scores what is missing; nothing else remembers what was done.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data import ActorPoolStrategy, Dataset

from brainscale import engine as engines
from brainscale.bundle import Bundle, open_bundle
from brainscale.calls import predicted, tumour
from brainscale.errors import ClusterError, OutputError, SourceError
from brainscale.files import output_folder, read_success, refuse_strangers, write_success
from brainscale.pipeline import over_units
from brainscale.preprocess import spec_fingerprint
from brainscale.reading import read_table
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
    on_part: OnPart = lambda rows, errors: None,
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
        on_part: called with the rows and the errors of each part as it is written.

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
    done = ledger(folder, identity)
    todo = [unit for unit in units if unit.sample_id not in done]
    finished = read_success(folder)
    if finished is not None:
        return {**finished, "files_not_in_it": len(todo)} if todo else finished
    if strange := sorted(done - {unit.sample_id for unit in units}):
        raise OutputError(
            f"{folder} holds {len(strange)} row(s) of other sources, '{strange[0]}' first: name all its sources again, "
            "or choose a new --out"
        )
    on_start(len(todo))
    if todo:
        write = partial(write_part, folder=str(folder), identity=identity)
        scored = predictions(todo, bundle, engine, workers, rows=PART_ROWS)
        for part in scored.map_batches(write, batch_format="pyarrow", batch_size=None, num_cpus=0.1).iter_rows():
            on_part(part["rows"], part["errors"])
    return _complete(folder, units, identity, bundle)


def predictions(units: Sequence[Unit], bundle: Bundle, engine: str, workers: int, rows: int) -> Dataset:
    """A lazy table of schema PREDICTIONS, one row for each sample of the units.

    Args:
        units: what to score.
        bundle: with what.
        engine: auto, onnx or torch.
        workers: engines side by side; each takes a GPU where torch runs on them.
        rows: in a block of the result, about.

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
    planes = over_units(units, partial(read_table, spec=bundle.card.preprocess)).dataset
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
    return pa.table([columns.get(f.name, empty).cast(f.type) for f in PREDICTIONS], schema=PREDICTIONS)


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


def write_part(table: pa.Table, *, folder: str, identity: dict[str, str]) -> pa.Table:
    """Write one part aside and rename it; the same ids always get the same name."""
    ids = "\n".join(sorted(table["sample_id"].to_pylist()))
    name = f"part-{hashlib.sha256(ids.encode()).hexdigest()[:16]}.parquet"
    aside = Path(folder) / f".{name}.{os.getpid()}.tmp"
    pq.write_table(table.replace_schema_metadata(identity), aside, compression="zstd")
    aside.replace(Path(folder) / name)
    errors = len(table) - table["error_code"].null_count
    return pa.table({"part": [name], "rows": [len(table)], "errors": [errors]})


def ledger(folder: Path, identity: dict[str, str]) -> set[str]:
    """The sample ids that the parts of a folder hold.

    Raises:
        OutputError: a part is damaged, or of another model or configuration.
    """
    for aside in folder.glob(".part-*.tmp"):
        aside.unlink(missing_ok=True)  # of a job that was killed; a live one keeps its folder to itself
    done: set[str] = set()
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            table = pq.read_table(path, columns=["sample_id"])
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(f"{path} cannot be read ({error}): remove it, and its rows are scored again") from None
        theirs = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        for key, ours in identity.items():
            if theirs.get(key) != ours:
                raise OutputError(
                    f"{folder} holds scores of another {key}, {theirs.get(key)}, not {ours}: choose a new --out"
                )
        done.update(table["sample_id"].to_pylist())
    return done


def _complete(folder: Path, units: Sequence[Unit], identity: dict[str, str], bundle: Bundle) -> dict[str, Any]:
    """Check the rows against the listing, then say that the folder is complete."""
    parts = sorted(folder.glob("part-*.parquet"))
    rows = pa.concat_tables([pq.read_table(p, columns=["sample_id", "error_code"]) for p in parts])
    found = Counter(rows["sample_id"].to_pylist())
    missing = [unit.sample_id for unit in units if unit.sample_id not in found]
    twice = [sample_id for sample_id, count in found.items() if count > 1]
    for problem, ids in (("missing", missing), ("there twice", twice)):
        if ids:
            raise OutputError(
                f"{folder}: {len(ids)} row(s) {problem}, '{ids[0]}' first: run again, or choose a new --out"
            )
    codes = Counter(code for code in rows["error_code"].to_pylist() if code is not None)
    errors = sum(codes.values())
    if errors == len(rows):
        raise SourceError(f"none of the {errors} files could be read ({_counted(codes)}): the rows in {folder} say why")
    facts = {
        "rows": len(rows),
        "scored": len(rows) - errors,
        "errors": dict(sorted(codes.items())),
        "architecture": bundle.card.architecture,
        **identity,
    }
    write_success(folder, facts)
    return facts


def _counted(codes: Counter[str]) -> str:
    return ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
