"""Train and test one piece of a study, in a process of its own: `python -m brainscale.evaluation.study.piece_main DIR`.

The folder has the request and the samples; what was computed before a stop is not computed again.
"""

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa

from brainscale.config.files import parse_config
from brainscale.config.sections import Config
from brainscale.dataset.columns import replace_column
from brainscale.dataset.manifest import read_manifest
from brainscale.errors import BrainscaleError
from brainscale.evaluation.baselines.runner import run_baseline
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.storage.local import read_success, write_json, write_success
from brainscale.training.driver import train_model
from brainscale.training.run_folder import RunFolder

REQUEST, SAMPLES, TEST_SAMPLES = "request.json", "samples.parquet", "test-samples.parquet"
RUN, EVALUATION = "run", "evaluation"
"""Names in a piece's folder: the run, and the folder with its predictions."""
MODEL_FACTS = ("weights_sha256", "epochs", "parameters", "hardware")
"""What `_SUCCESS.json` of a piece says of its model; a baseline has no weights."""


def write_request(folder: Path, identity: str, config: Config, tested: str, baseline: str | None) -> None:
    """Write what `run_piece` reads, beside the samples."""
    facts = {"identity": identity, "config": config.model_dump(mode="json"), "tested": tested, "baseline": baseline}
    write_json(folder / REQUEST, facts)


def run_piece(folder: Path) -> None:
    """Train and test the model of a folder, and mark the folder as complete.

    Raises:
        BrainscaleError: the data cannot be trained on, or training failed.
    """
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    config = parse_config(request["config"], str(folder / REQUEST))
    if request["baseline"] is None:
        facts = _train_and_evaluate(folder, config, request["tested"])
    else:
        manifest = _with_test_split(folder, request["tested"])
        run_baseline(request["baseline"], manifest, config, folder / EVALUATION, cache=folder.parents[2] / "features")
        facts = {"weights_sha256": None, "epochs": None, "parameters": None, "hardware": []}
    write_success(folder, {"identity": request["identity"], **facts})


def _train_and_evaluate(folder: Path, config: Config, tested: str) -> dict[str, Any]:
    other = folder / TEST_SAMPLES
    run = train_model(str(folder / SAMPLES), str(folder / RUN), config)
    evaluation = evaluate_model(
        str(folder / RUN),
        str(folder / EVALUATION),
        data=str(other) if other.is_file() else None,
        split=tested,
        workers=1,
        report=False,
    )
    shutil.rmtree(RunFolder(folder / RUN).checkpoints, ignore_errors=True)  # larger than the model, and needed no more
    return {
        "weights_sha256": run.weights_sha256,
        "epochs": run.epochs,
        "parameters": evaluation.parameters,
        "hardware": list(run.hardware),
    }


def _with_test_split(folder: Path, tested: str) -> pa.Table:
    """Return the samples of a piece with those that it is tested on in the split `test`, as a baseline takes them."""
    manifest = read_manifest(folder / SAMPLES)
    if tested == "test":
        return manifest
    if tested == "val":
        splits = ["test" if split == "val" else split for split in manifest["split"].to_pylist()]
        return replace_column(manifest, "split", pa.array(splits, pa.string()))
    other = read_manifest(folder / TEST_SAMPLES)
    other = replace_column(other, "split", pa.array(["test"] * len(other), pa.string()))
    columns = [name for name in manifest.column_names if name in other.column_names]
    return pa.concat_tables([manifest.select(columns), other.select(columns)]).sort_by("sample_id")


def end_with_parent() -> None:
    """Interrupt this process when its standard input ends: where the parent was killed, nobody waits for the piece."""
    while os.read(0, 1):  # not sys.stdin, whose lock a thread would hold when this process ends
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    place = Path(sys.argv[1])
    if read_success(place) is None:
        try:
            run_piece(place)
        except BrainscaleError as error:
            sys.exit(f"Error: {error}")
