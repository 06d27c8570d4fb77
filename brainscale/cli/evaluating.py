"""Commands that measure models: evaluate and compare."""

import json
from typing import Any

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import after_comparison, after_evaluation, print_next
from brainscale.logs import notice

OPTIONAL_FACTS = ("looks_note", "matched_on", "caliper", "pairs", "samples_without_pair")
"""Facts of an evaluation that are not printed where there are none."""


@click.command("evaluate")
@click.argument("model", metavar="MODEL")
@click.option(
    "--data",
    metavar="SOURCE|M.parquet",
    show_default="the manifest of the run",
    help="Data to evaluate on: a source or a manifest.",
)
@click.option(
    "--split",
    metavar="SPLIT",
    show_default="test if there is one, otherwise all",
    help="Split to evaluate on: train, val, test or all.",
)
@click.option("--out", metavar="DIR", show_default="MODEL/evaluation/[DATA-]SPLIT[-UNIT]", help="Output folder.")
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1, True, True),
    metavar="FRACTION",
    help="Prevalence of tumours in the intended use, for predictive values.",
)
@options.unit
@click.option(
    "--by",
    multiple=True,
    metavar="COLUMN",
    help="Column of the manifest that defines subgroups, each with its own metrics. Can be given several times.",
)
@options.match
@click.option(
    "--training-manifest",
    default="auto",
    show_default=True,
    metavar="auto|M.parquet",
    help="Manifest of the training data, to detect data leakage; auto: the manifest of the run.",
)
@options.show_burned_in
@options.allow_edited_model
@options.overwrite
@click.option("--no-report", is_flag=True, help="Write the tables only, without plots and report.")
@options.engine
@options.workers
@options.shared
@options.address
@options.json
@handle_errors
def evaluate_command(
    model: str,
    data: str | None,
    split: str | None,
    out: str | None,
    engine: str,
    workers: int | None,
    prevalence: float | None,
    unit: str,
    by: tuple[str, ...],
    match: tuple[str, ...],
    training_manifest: str,
    show_burned_in: bool,
    allow_edited_model: bool,
    overwrite: bool,
    no_report: bool,
    shared: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Evaluate a model on labelled samples: predictions, metrics with confidence intervals, and a report.

    Example: brainscale evaluate runs/first --split test --out evaluation/
    """
    load_arrow()
    from brainscale.models.shipped import make_model_absolute
    from brainscale.storage.remote import make_absolute

    request: dict[str, Any] = {
        "model": make_model_absolute(model),
        "out": out and make_absolute(out),
        "data": data and make_absolute(data),
        "split": split,
        "engine": engine,
        "workers": workers,
        "prevalence": prevalence,
        "unit": unit,
        "by": by,
        "match": match,
        "show_burned_in": show_burned_in,
        "allow_edited_model": allow_edited_model,
        "report": not no_report,
        "shared": shared,
        "training_manifest": training_manifest if training_manifest == "auto" else make_absolute(training_manifest),
    }
    if address:
        job = {**request, "overwrite": overwrite}
        options.run_as_job(address, no_wait, "evaluate", job, as_json, after_evaluation(model, None))
    from brainscale.evaluation.arguments import check_evaluation

    named = {name: request[name] for name in ("data", "split", "engine", "training_manifest")}
    check_evaluation(request["model"], request["out"], **named)
    from brainscale.evaluation.repeated import find_repeated
    from brainscale.models.novelty import describe_unusual

    evaluation = find_repeated(**request, on_notice=notice)
    if evaluation is None:
        from brainscale.cli.progress import show_progress

        with show_progress() as display:
            if not (by or match):  # whose columns are checked in the manifest first
                display.announce(f"Evaluating {model}")
            from brainscale.evaluation.evaluator import evaluate_model  # here: it takes seconds to load

            evaluation = evaluate_model(**request, overwrite=overwrite, on_notice=notice)
    if evaluation.degenerate and not as_json:
        click.echo(evaluation.degenerate)
    if evaluation.unusual is not None and not as_json:
        click.echo(describe_unusual(evaluation.unusual, evaluation.samples - evaluation.errors))
    if evaluation.matched is not None and not as_json:
        from brainscale.evaluation.matched import describe_matched  # here: scipy is slow to load

        click.echo(describe_matched(evaluation.matched))
    facts = evaluation.to_json()
    said = {"degenerate", "unusual", "matched"} | {name for name in OPTIONAL_FACTS if facts[name] is None}
    print_facts(facts if as_json else {name: facts[name] for name in facts if name not in said}, as_json)
    if not (as_json or no_report):
        click.echo(f"\nReport: {evaluation.report}")
    print_next(after_evaluation(model, None if no_report else str(evaluation.report)))


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    metavar="T.parquet",
    help="File for the tables: .parquet, .csv, .json, .md or .tex. In Parquet and CSV the paired tests go to a second "
    "file beside it, such as T-pairs.parquet.",
)
@options.overwrite
@options.unit
@options.match
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
@click.option(
    "--force",
    is_flag=True,
    help="Compare runs that were evaluated on different samples, classes or units, which marks every output.",
)
@options.json
@handle_errors
def compare_command(
    runs: tuple[str, ...],
    out: str | None,
    overwrite: bool,
    unit: str,
    match: tuple[str, ...],
    markdown: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Compare models: a table of metrics with one row for each run, and paired tests between the runs.

    A run without an evaluation is first evaluated on its test split.

    Example: brainscale compare runs/brainmrnet runs/resnet50 --out t.parquet
    """
    load_arrow()
    from contextlib import ExitStack

    from brainscale.cli.progress import show_progress
    from brainscale.evaluation.arguments import require_runs
    from brainscale.evaluation.comparison_files import FORMATS, files_of, format_all, write_comparison
    from brainscale.storage.formats import require_format
    from brainscale.storage.ownership import describe_origin, require_own
    from brainscale.storage.remote import is_address, make_absolute, split_options
    from brainscale.storage.workspace import fetch

    options_used = {"unit": unit, "match": match, "force": force}
    origin = describe_origin("compare", {"runs": [make_absolute(run) for run in runs], **options_used})
    if out:
        require_format(out, FORMATS)
        for file, kind in files_of(out).items():
            require_own(file, origin, kind=kind, overwrite=overwrite)
    require_runs([run for run in runs if not is_address(run)], unit)
    with show_progress() as display, ExitStack() as stack:
        display.announce(f"Comparing {' '.join(runs)}")
        from brainscale.evaluation.comparison import READ, compare_runs  # here: it takes a second to load

        folders = [str(stack.enter_context(fetch(run, *READ, push=True))) for run in runs]
        names = [split_options(run)[0] for run in runs]
        comparison = compare_runs(folders, unit=unit, match=match, force=force, names=names)
    if out:
        write_comparison(comparison, out, origin)
    if as_json:
        click.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        click.echo(format_all(comparison, form="markdown" if markdown else "text"))
    print_next(after_comparison(runs))
