"""Commands that score: score, demo."""

from pathlib import Path
from typing import Any

import click

from brainscale.cli import options, planning
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import after_scoring, print_next
from brainscale.errors import FAIL_ABOVE
from brainscale.logs import notice


@click.command("score")
@click.argument("model", metavar="MODEL")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out",
    required=True,
    metavar="DIR|FILE.parquet|FILE.csv",
    help="Output folder for Parquet parts, or one file of a million rows at most; the same command again resumes a "
    "stopped job.",
)
@options.overwrite
@click.option("--update", is_flag=True, help="Score also the files that are new in the sources.")
@click.option("--prune", is_flag=True, help="Drop the rows of files that are gone from the sources.")
@click.option(
    "--fail-above",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    default=FAIL_ABOVE,
    show_default=True,
    help="Share of samples with an error above which the command fails, though all rows are written.",
)
@click.option(
    "--unit",
    type=click.Choice(["scan", "patient"]),
    help="Add a table with one row for each scan (series or volume) or patient.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    metavar="FRACTION",
    show_default="the threshold of the model",
    help="Operating threshold for the probability of a tumour.",
)
@click.option("--heatmaps", metavar="DIR", help="Folder for heatmaps of the most confident tumour predictions.")
@click.option(
    "--max-heatmaps",
    type=click.IntRange(1),
    metavar="N",
    default=20,
    show_default=True,
    help="Maximum number of heatmaps.",
)
@options.show_burned_in
@options.precision
@click.option("--compile", "compiled", is_flag=True, help="Compile the network with torch before scoring.")
@click.option(
    "--patient-key",
    metavar="FILE",
    show_default="$BRAINSCALE_PATIENT_KEY",
    help="File with the key that hashes patients and series.",
)
@click.option(
    "--hash-paths",
    is_flag=True,
    help="Hash the names of files and archive members too; without a key, one is drawn and kept in "
    "~/.local/state/brainscale.",
)
@options.allow_edited_model
@options.engine
@options.workers
@click.option(
    "--min-workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="all",
    help="Number of engines to start with; more start while work waits.",
)
@click.option(
    "--cpus-per-worker",
    type=click.IntRange(1),
    metavar="N",
    show_default="an even share of each node",
    help="Number of CPUs of each engine.",
)
@click.option(
    "--object-store-gib",
    type=click.FloatRange(0.1),
    metavar="GIB",
    show_default="Ray's default",
    help="Size of a local Ray's object store, in GiB.",
)
@click.option(
    "--store-seconds",
    type=click.FloatRange(0),
    metavar="SECONDS",
    default=300.0,
    show_default=True,
    help="Time for which the object store of the sources may be away before the job ends.",
)
@options.shared
@options.dry_run
@options.address
@options.json
@handle_errors
def score_command(
    model: str,
    sources: tuple[str, ...],
    out: str,
    heatmaps: str | None,
    max_heatmaps: int,
    patient_key: str | None,
    fail_above: float,
    dry_run: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score every sample of the sources: one row for each, with a probability or an error.

    A SOURCE is what `index` takes, or a single manifest.

    Example: brainscale score runs/first archive/ --out scores/
    """
    load_arrow()
    from brainscale.models.shipped import make_model_absolute
    from brainscale.storage.remote import make_absolute

    request: dict[str, Any] = {
        "model": make_model_absolute(model),
        "sources": [make_absolute(source) for source in sources],
        "out": options.make_absolute_output(out),
        "patient_key": patient_key and make_absolute(patient_key),
        "heatmaps": heatmaps and make_absolute(heatmaps),
        "max_heatmaps": max_heatmaps,
        **settings,
    }
    if dry_run:
        planning.show_scoring_plan(request, address, as_json)
        return
    if address:
        job = {**request, "fail_above": fail_above}
        options.run_as_job(address, no_wait, "score", job, as_json, after_scoring(out))
    from brainscale.cli.progress import show_progress
    from brainscale.reading.spawning import start_spare

    start_spare()  # it loads beside this process
    with show_progress() as display:
        from brainscale.models.novelty import describe_unusual  # here: they take a second to load
        from brainscale.scoring.single_file import score_to

        scores = score_to(**request, on_start=display.start_scoring, on_part=display.advance_scoring, on_notice=notice)
    options.notice_if_complete(scores.progress is None, out, scores.files_not_in_it)
    if scores.unusual is not None and not as_json:
        click.echo(describe_unusual(scores.unusual, scores.scored))
    facts = {"scores": out, **scores.to_json()}
    print_facts(facts if as_json else {name: facts[name] for name in facts if name != "unusual"}, as_json)
    scores.require_few_errors(fail_above)
    print_next(after_scoring(out))


@click.command("demo")
@click.option(
    "--out", default="demo", show_default=True, metavar="DIR", help="Folder for the synthetic images and all results."
)
@handle_errors
def demo_command(out: str) -> None:
    """Try everything on synthetic images: train, evaluate, score and compare, in minutes on two cores.

    Example: brainscale demo --out demo
    """
    from brainscale.storage.local import naming_folder, refuse_other_files, require_writable

    require_writable(out)
    if Path(out).is_dir():
        refuse_other_files(Path(out), {"phantoms"}, "demo")
    click.echo(f"Trying everything in {out}")
    from brainscale.cli.demo import run_demo  # here: torch takes seconds to load

    with naming_folder(out):
        run_demo(Path(out), on_line=click.echo)
    print_next("brainscale index YOUR_SCANS --out scans.parquet")
