"""The whole workflow on synthetic images: index, split, train, evaluate, score, compare."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from brainscale.cli.progress import show_progress
from brainscale.config.files import load_config
from brainscale.dataset import phantoms
from brainscale.dataset.from_sources import index_sources
from brainscale.dataset.manifest import write_manifest
from brainscale.dataset.splits import assign_splits
from brainscale.dataset.summary import summarise
from brainscale.evaluation.comparison import compare_runs
from brainscale.evaluation.comparison_text import format_comparison
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.logs import notice
from brainscale.scoring.bulk import score_files
from brainscale.storage.local import make_folder
from brainscale.training.driver import train_model

PHANTOMS = 360
SEED = 42


def run_demo(out: Path, on_line: Callable[[str], None]) -> None:
    """Run the demo, or resume it.

    Args:
        out: folder for the images and all results.
        on_line: called with each line of the result.

    Raises:
        BrainscaleError: a step failed.
    """
    folder = make_folder(out)
    scans, manifest = folder / "phantoms", folder / "phantoms.parquet"
    on_line(f"1/6  draw {PHANTOMS} phantoms (synthetic images) in {out / 'phantoms'}")
    phantoms.write_phantoms(scans, PHANTOMS, SEED)
    config = load_config("demo")
    on_line("2/6  index them, and split them into train, val and test")
    with show_progress():
        indexed = index_sources([str(scans)], config)
    table = assign_splits(indexed, val=config.split.val, test=config.split.test, seed=SEED)
    write_manifest(table, manifest)
    splits = summarise(table).splits
    on_line("     " + ", ".join(f"{split}: {sum(labels.values())} samples" for split, labels in splits.items()))
    on_line(f"3/6  train {config.model.name}, for at most {config.train.epochs} epochs")
    with show_progress() as display:

        def on_epoch(row: Mapping[str, Any]) -> None:
            display.show_epoch(row, config.train.epochs)

        train_model(str(manifest), str(folder / "run"), config, on_epoch, notice)
    on_line("4/6  evaluate it on the test split")
    with show_progress():
        evaluate_model(str(folder / "run"), str(folder / "evaluation"))
    on_line("5/6  score all phantoms")
    with show_progress() as display:
        scores = score_files(
            str(folder / "run"),
            [str(scans)],
            str(folder / "scores"),
            on_start=display.start_scoring,
            on_part=display.advance_scoring,
        )
    on_line(f"     {scores.rows} rows in {out / 'scores'}, one for each phantom")
    on_line("6/6  compare it with a classifier that sees file headers only\n")
    on_line(format_comparison(compare_runs([str(folder / "evaluation")]).table))
    on_line(f"\nReport: {out / 'evaluation' / 'report.html'}")
