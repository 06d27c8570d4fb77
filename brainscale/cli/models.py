"""Commands on models: train, evaluate, compare, verify."""

import json
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from brainscale.cli import options
from brainscale.cli.console import common, print_facts
from brainscale.errors import UsageError
from brainscale.logs import notice
from brainscale.storage.remote import absolute

if TYPE_CHECKING:
    from brainscale.config.sections import Config


@click.command()
@click.option("--data", required=True, metavar="SOURCE|M.parquet", help="What to train on.")
@click.option("--out", required=True, metavar="RUN", help="The run's folder; the same again continues it.")
@click.option("--config", metavar="NAME|FILE", help="A named configuration or a YAML file.")
@click.option("--model", metavar="NAME", help="The network: brainmrnet, brainmrnet_paper, vgg16, …")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Data-parallel; the result does not depend on it.  [default: one for each GPU, or else each node]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the network lives.")
@click.option("--seed", type=click.IntRange(0), help="Of every random draw.")
@click.option("--epochs", type=click.IntRange(1), help="At most so many.")
@click.option("--folds", type=click.IntRange(3), help="Cross-validate: so many folds, each the test part once.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Of the folds, cut anew.")
@click.option("--at-once", type=click.IntRange(1), help="Folds side by side.  [default: as many as there is room for]")
@click.option("--target-sensitivity", type=click.FloatRange(0, 1, True), help="The threshold reaches it on validation.")
@click.option("--youden", is_flag=True, help="Threshold by Youden's index on validation.")
@click.option("--calibrate", is_flag=True, help="Calibrate probabilities by one temperature, on validation.")
@click.option("--mlflow", "tracking", metavar="URI", help="An MLflow server, or a folder, that gets the run too.")
@options.shared
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Any value of the configuration.")
@options.address
@options.json
@common
def train(
    data: str,
    out: str,
    config: str | None,
    overrides: tuple[str, ...],
    folds: int | None,
    repeats: int,
    at_once: int | None,
    target_sensitivity: float | None,
    youden: bool,
    calibrate: bool,
    tracking: str | None,
    shared: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
    **named: Any,
) -> None:
    """Train a model, or go on with a run that was stopped; or cross-validate one.

    Example: brainscale train --data scans/ --config brainmrnet --out runs/first
    """
    from brainscale.config import files
    from brainscale.training.mlflow_tracking import check_tracking_uri, require_mlflow

    if tracking is not None and folds is not None:
        raise UsageError("--mlflow follows one run, not the many of --folds: leave one out")
    places = {
        "model": "model.name",
        "workers": "resources.workers",
        "device": "resources.device",
        "seed": "train.seed",
        "epochs": "train.epochs",
    }
    if youden and target_sensitivity is not None:
        raise UsageError("--youden and --target-sensitivity both choose the threshold: give one")
    chosen = [f"{places[name]}={value}" for name, value in named.items() if value is not None]
    chosen += ["operating.temperature=true"] if calibrate else []
    chosen += ["resources.shared=true"] if shared else []
    chosen += ["operating.threshold=youden"] if youden else []
    if target_sensitivity is not None:
        chosen += ["operating.threshold=sensitivity", f"operating.target={target_sensitivity}"]
    settings = files.load_config(config, [*chosen, *overrides])
    request: dict[str, Any] = {
        "data": absolute(data),
        "out": absolute(out),
        "config": settings.model_dump(mode="json"),
        "folds": folds,
        "repeats": repeats,
        "at_once": at_once,
    }
    track = tracking and check_tracking_uri(tracking)
    if address:
        options.submit(address, no_wait, "train", request | {"tracking": track}, as_json)
    if track:
        require_mlflow()
    from brainscale.cli.progress import epochs

    if folds is not None:
        from brainscale.evaluation.cross_validation import cross_validate

        with _ray(settings):
            result = cross_validate(**request | {"config": settings}, on_notice=notice)
        click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.to_text())
        return
    from brainscale.storage.workspace import is_complete
    from brainscale.training.driver import train_model as run

    complete = is_complete(request["out"])
    with _ray(settings), epochs(settings.train.epochs) as (on_epoch, on_notice):
        finished = run(request["data"], request["out"], settings, on_epoch, on_notice, track)
    options.notice_if(complete, out)
    print_facts({"run": out, **finished.facts()}, as_json)


def _ray(settings: "Config") -> AbstractContextManager[None]:
    from brainscale.cluster import session

    room = settings.resources
    return session.session(None if room.workers == "auto" else room.workers, room.object_store_gib)


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", metavar="SOURCE|M.parquet", help="What to evaluate on.  [default: the run's own manifest]")
@click.option("--split", "side", metavar="SIDE", help="train, val, test or all.  [default: test where there is one]")
@click.option("--out", metavar="DIR", help="Where to write.  [default: MODEL/evaluation/SIDE]")
@click.option("--prevalence", type=click.FloatRange(0, 1, True, True), help="Of tumours where the model will be used.")
@click.option("--by", multiple=True, metavar="COLUMN", help="Figures of subgroups too, by a column of the manifest.")
@click.option(
    "--training-manifest", default="auto", show_default=True, metavar="auto|M.parquet", help="To find what it learnt."
)
@options.engine
@options.workers
@options.shared
@options.address
@options.json
@common
def evaluate(
    model: str,
    data: str | None,
    side: str | None,
    out: str | None,
    engine: str,
    workers: int | None,
    prevalence: float | None,
    by: tuple[str, ...],
    training_manifest: str,
    shared: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Evaluate a model on labelled samples: predictions, figures with intervals and a report.

    Example: brainscale evaluate runs/first --split test --out evaluation/
    """
    request: dict[str, Any] = {
        "model": absolute(model),
        "out": out and absolute(out),
        "data": data and absolute(data),
        "split": side,
        "engine": engine,
        "workers": workers,
        "prevalence": prevalence,
        "by": by,
        "shared": shared,
        "training_manifest": training_manifest if training_manifest == "auto" else absolute(training_manifest),
    }
    if address:
        options.submit(address, no_wait, "evaluate", request, as_json)
    from brainscale.cluster import session
    from brainscale.evaluation.evaluator import evaluate_model as run

    with session.session(workers):
        evaluation = run(**request, on_notice=notice)
    print_facts(evaluation.to_json(), as_json)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="T.parquet", help="Write the table as Parquet too, and the tests beside it.")
@click.option("--markdown", is_flag=True, help="Print it as Markdown.")
@options.json
@common
def compare(runs: tuple[str, ...], out: str | None, markdown: bool, as_json: bool) -> None:
    """Print the result table of several runs, one row for each model, and paired tests between them.

    Runs that were not evaluated yet are, on their test side.

    Example: brainscale compare runs/brainmrnet runs/resnet50 --out table.parquet
    """
    from contextlib import ExitStack, nullcontext

    from brainscale.cluster import session
    from brainscale.evaluation import comparison as comparing
    from brainscale.evaluation.comparison_text import format_comparison, format_pairs
    from brainscale.storage.remote import without_options
    from brainscale.storage.tables import write_table
    from brainscale.storage.workspace import fetch

    with ExitStack() as copies:
        here = [str(copies.enter_context(fetch(run, *comparing.READ, push=True))) for run in runs]
        with nullcontext() if comparing.all_evaluated(here) else session.session():
            comparison = comparing.compare_runs(here)
    if not comparison.same:
        notice("Note: these runs were evaluated on different samples; their metrics cannot be compared.")
    if out:
        write_table(comparison.table, out, "comparison")
        if comparison.pairs is not None:
            base, behind = without_options(out)
            write_table(comparison.pairs, f"{base.removesuffix('.parquet')}-pairs.parquet{behind}", "paired tests")
    if as_json:
        click.echo(json.dumps(comparison.table.to_pylist(), indent=2))
        return
    click.echo(format_comparison(comparison.table, markdown=markdown))
    if comparison.pairs is not None:
        click.echo(f"\n{format_pairs(comparison.pairs, markdown=markdown)}")


@click.command()
@click.argument("one", metavar="RUN_A")
@click.argument("other", metavar="RUN_B")
@options.json
@common
def verify(one: str, other: str, as_json: bool) -> None:
    """Say whether two runs are equal to the bit, or the first step and tensor where they part; exit status 1 then.

    Example: brainscale verify runs/first runs/second
    """
    from brainscale.storage.workspace import fetch
    from brainscale.training.verification import READ
    from brainscale.training.verification import compare_bits as run

    with fetch(one, *READ) as first, fetch(other, *READ) as second:
        comparison = run(first, second)
    click.echo(json.dumps(comparison.to_json(), indent=2) if as_json else comparison.to_text())
    sys.exit(0 if comparison.equal else 1)
