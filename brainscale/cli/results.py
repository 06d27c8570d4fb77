"""The command `results`: run studies, and write the page of their figures."""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from brainscale import interrupts
from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import print_next
from brainscale.errors import UsageError
from brainscale.logs import notice

if TYPE_CHECKING:
    from brainscale.evaluation.study.budget import RowBudget


def _show_budget(budget: "Sequence[RowBudget]", *, as_json: bool, dry_run: bool) -> None:
    """Print the hours of each row; with --json only those of a dry run, as other results follow otherwise."""
    from brainscale.evaluation.study.budget import format_budget

    if not as_json:
        click.echo(format_budget(budget))
    elif dry_run:
        click.echo(json.dumps([vars(row) for row in budget], indent=2))


@click.command("results")
@click.argument("studies", nargs=-1, required=True, metavar="STUDY...")
@click.option(
    "--data",
    "places",
    multiple=True,
    metavar="NAME=PATH",
    help="Path of a data set. Can be given several times; parts whose data set is not given are skipped.",
)
@click.option("--out", required=True, metavar="DIR", help="Folder of all runs; the same command again resumes.")
@click.option("--part", "parts", multiple=True, metavar="NAME", help="Part to run. Can be given several times.")
@click.option("--row", "rows", multiple=True, metavar="NAME", help="Row to run. Can be given several times.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    show_default="until all is complete",
    help="Time limit. A model that would not finish in time is not started.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="Number of models trained at the same time. Each has its own memory and `train.threads` threads.",
)
@click.option(
    "--page",
    metavar="FILE.md",
    show_default="DIR/results.md",
    help="Markdown page to write; its table is written beside it.",
)
@click.option(
    "--models",
    metavar="FILE",
    help="Table of released models (models.parquet), used instead of training them.",
)
@options.overwrite
@click.option("--dry-run", is_flag=True, help="Only print what is done, what is left, and how long it takes.")
@click.option("--force", is_flag=True, help="Run studies that take longer than their budget.")
@options.json
@handle_errors
def results_command(
    studies: tuple[str, ...],
    places: tuple[str, ...],
    out: str,
    parts: tuple[str, ...],
    rows: tuple[str, ...],
    minutes: float | None,
    parallel: int,
    page: str | None,
    models: str | None,
    overwrite: bool,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Train and test every model of studies, and write a table and a page of their figures.

    A study is a YAML file: data sets, and parts with rows that are trained and tested in one way. What is complete is
    not computed again. STUDY is the name of a study that comes with brainscale, or the path of a file.

    Example: brainscale results brain_mri_253 --data brain_mri_253=scans/ --out results/ --minutes 90
    """
    load_arrow()
    from brainscale.cli.progress import show_progress
    from brainscale.evaluation.study.arguments import check_studies
    from brainscale.evaluation.study.files import read_study

    if wrong := next((place for place in places if "=" not in place), None):
        raise UsageError(f"--data takes NAME=PATH, not '{wrong}'")
    by_name = dict(place.partition("=")[::2] for place in places)
    if len(by_name) < len(places):
        raise UsageError("--data gives a data set twice: give each once")
    if page is not None and not page.endswith(".md"):
        raise UsageError(f"--page takes the path of a Markdown file, not '{page}'")
    given = [*(f"--data {name}=PATH" for name in sorted(by_name)), *(["--models FILE"] if models else [])]
    files = [read_study(study) for study in studies]
    check_studies(files, by_name, out, parts, rows, page=page, models=models, overwrite=overwrite)
    with interrupts.ending_children(), show_progress() as display:
        display.announce(f"Planning {', '.join(file.name for file in files)}")
        from brainscale.evaluation.study import results  # here: torch takes seconds to load

        result = results.run_studies(
            files,
            by_name,
            out,
            parts=parts,
            rows=rows,
            minutes=minutes,
            parallel=parallel,
            page=page,
            models=models,
            overwrite=overwrite,
            dry_run=dry_run,
            force=force,
            command=" ".join(["brainscale results", *(file.name for file in files), *given, "--out DIR"]),
            on_budget=lambda budget: _show_budget(budget, as_json=as_json, dry_run=dry_run),
            on_notice=notice,
        )
    if result is None:
        return
    facts = {
        "page": str(result.page),
        "table": str(result.table_file),
        "models_finished": result.outcome.finished,
        "models_left": result.outcome.left,
        "hours_left": round(result.hours_left, 2),
    }
    print_facts(facts, as_json)
    results.require_success(result.outcome)
    print_next(f"open {shlex.quote(str(result.page))}")
