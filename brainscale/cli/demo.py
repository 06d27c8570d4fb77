"""The whole way on phantoms: draw, index, split, train, evaluate, score, compare."""

from collections.abc import Callable
from pathlib import Path

from brainscale.cli.progress import Bar, epochs
from brainscale.config.files import load_config
from brainscale.dataset import phantoms
from brainscale.dataset.indexer import index_sources
from brainscale.dataset.manifest import write_manifest
from brainscale.dataset.splits import assign_splits
from brainscale.dataset.summary import summarise
from brainscale.evaluation.comparison import compare_runs
from brainscale.evaluation.comparison_text import format_comparison
from brainscale.evaluation.evaluator import evaluate_model
from brainscale.scoring.bulk import score_files
from brainscale.storage.local import output_folder, refuse_other_files
from brainscale.training.driver import train_model

PHANTOMS = 360
SEED = 42


def run_demo(out: Path, say: Callable[[str], None]) -> None:
    """Do it all; run again, continue it.

    Needs a connected Ray.

    Args:
        out: folder for everything.
        say: takes lines for standard output.
    """
    folder = output_folder(out)
    refuse_other_files(folder, {"phantoms"}, "demo")
    scans, manifest = folder / "phantoms", folder / "phantoms.parquet"
    say(f"1/6  drawing {PHANTOMS} phantoms in {out / 'phantoms'}")
    phantoms.write_phantoms(scans, PHANTOMS, SEED)
    config = load_config("demo")
    say("2/6  index and split: who is in which part, no copy on two sides")
    table = assign_splits(index_sources([str(scans)], config), val=config.split.val, test=config.split.test, seed=SEED)
    write_manifest(table, manifest)
    say(f"     {summarise(table).splits}")
    say(f"3/6  train {config.model.name}, {config.train.epochs} epochs at most")
    with epochs(config.train.epochs) as (on_epoch, on_notice):
        train_model(str(manifest), str(folder / "run"), config, on_epoch, on_notice)
    say("4/6  evaluate on the test part")
    evaluate_model(str(folder / "run"), str(folder / "evaluation"))
    say("5/6  score every phantom, one row each")
    with Bar() as bar:
        scores = score_files(
            str(folder / "run"), [str(scans)], str(folder / "scores"), on_start=bar.start, on_part=bar.advance
        )
    say(f"     {scores.rows} rows in {out / 'scores'}")
    say("6/6  compare\n")
    say(format_comparison(compare_runs([str(folder / "evaluation")]).table))
    say(f"\nReport: {out / 'evaluation' / 'report.html'}")
