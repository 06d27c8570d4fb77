"""The command line: parse, call one function, print. Heavy imports wait until a command runs."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from brainscale import __version__
from brainscale.console import Group, common, print_facts
from brainscale.errors import UsageError

_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_address = click.option("--address", metavar="URL", help="Run as a job on this Ray cluster (its Jobs server).")
_workers = click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Side by side.")
_engine = click.option("--engine", default="auto", show_default=True, help="auto, onnx or torch.")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="brainscale")
def main() -> None:
    """Train, evaluate and run classifiers that tell brain MRI scans with a tumour from scans without.

    Research use only; not a medical device.
    """


@main.command()
@click.option("--out", default="demo", show_default=True, help="Folder for the phantoms and results.")
@common
def demo(out: str) -> None:
    """Make phantoms, train, evaluate, score and compare; minutes on two cores.

    Example: brainscale demo --out demo
    """
    from brainscale import cluster
    from brainscale.demo import demo as run

    with cluster.local(1):
        run(Path(out), say=click.echo)


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, metavar="M.parquet", help="The manifest to write.")
@click.option("--labels", default="folder", show_default=True, metavar="folder|FILE.csv", help="Where labels are.")
@click.option("--config", metavar="NAME|FILE", help="For another class map, preprocessing or limits.")
@click.option("--patient-key", metavar="FILE", help="Key of the patients' hashes.  [default: $BRAINSCALE_PATIENT_KEY]")
@click.option("--hash-paths", is_flag=True, help="Hash the names of files too; such a manifest cannot be trained on.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Files read side by side.")
@_json
@common
def index(
    sources: tuple[str, ...],
    out: str,
    labels: str,
    config: str | None,
    patient_key: str | None,
    hash_paths: bool,
    workers: int,
    as_json: bool,
) -> None:
    """List every sample of the sources, with hashes, groups and errors, labelled by folder.

    A SOURCE is a folder, a file, a glob, a list of files (@FILE) or an address (s3://, gs://). Archives are read too.

    Example: brainscale index scans/ --out scans.parquet
    """
    from brainscale import cluster
    from brainscale import config as configuration
    from brainscale import index as indexing
    from brainscale.audit import header_control, summary
    from brainscale.keys import KEY_VARIABLE, read_key

    settings = configuration.load(config)
    key = read_key(patient_key)
    with cluster.local(workers):
        table = indexing.index(sources, settings, labels, key=key, hash_paths=hash_paths)
    indexing.require_readable(table, " ".join(sources))
    indexing.write_manifest(table, Path(out).absolute())
    facts = {
        "manifest": out,
        **summary(table),
        "header_only_control": header_control(table, next(iter(settings.data.classes))),
    }
    if key.random and (facts["patients"] or hash_paths):
        click.echo(
            "Note: hashes were made with a random key and match no other manifest: "
            f"give --patient-key FILE, or set {KEY_VARIABLE}",
            err=True,
        )
    print_facts(facts, as_json)


@main.command()
@click.argument("manifest", metavar="M.parquet")
@click.option("--out", metavar="M2.parquet", help="The manifest to write.")
@click.option("--val", type=click.FloatRange(0, 1, True, True), help="Share that chooses the model.  [default: 0.15]")
@click.option("--test", type=click.FloatRange(0, 1, False, True), help="Share kept sealed.  [default: 0.2]")
@click.option("--folds", type=click.IntRange(2), help="Folds instead of val and test.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--keep", metavar="OLD.parquet", help="An earlier split whose samples keep their sides.")
@click.option("--distance", type=click.IntRange(0, 8), help="Join pictures within so many bits first.  [default: 4]")
@click.option("--verify", is_flag=True, help="Only check that no group is cut; fails where one is.")
@_json
@common
def split(
    manifest: str,
    out: str | None,
    val: float | None,
    test: float | None,
    folds: int | None,
    seed: int,
    keep: str | None,
    distance: int | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Split a manifest, or cut it into folds, so that no group stands on two sides.

    Example: brainscale split scans.parquet --val 0.15 --test 0.2 --out scans-split.parquet
    """
    from brainscale import index as indexing
    from brainscale import splits
    from brainscale.audit import summary

    if folds is not None and (val is not None or test is not None or keep is not None):
        raise UsageError("--folds takes the place of --val, --test and --keep: give one or the other")
    val, test = 0.15 if val is None else val, 0.2 if test is None else test
    if val + test >= 1:
        raise UsageError(f"--val {val:g} and --test {test:g} leave nothing to train on")
    table = indexing.read_manifest(manifest)
    if verify:
        facts = splits.verify(table, splits.DISTANCE if distance is None else distance)
        print_facts({"manifest": manifest, **facts}, as_json)
        return
    if out is None:
        raise UsageError("--out says where to write; or check what is there with --verify")
    if distance is not None:
        table = splits.groups(table, distance)
    if folds is not None:
        table = splits.fold(table, folds=folds, seed=seed)
    else:
        kept = splits.sides(indexing.read_manifest(keep)) if keep else None
        table = splits.split(table, val=val, test=test, seed=seed, keep=kept)
    indexing.write_manifest(table, Path(out).absolute())
    print_facts({"manifest": out, **summary(table)}, as_json)


@main.command()
@click.argument("one", metavar="A.parquet")
@click.argument("other", metavar="B.parquet")
@click.option("--distance", type=click.IntRange(0, 8), default=4, show_default=True, help="Bits between near pictures.")
@click.option("--out", metavar="T.parquet", help="Write the list as Parquet too.")
@_json
@common
def overlap(one: str, other: str, distance: int, out: str | None, as_json: bool) -> None:
    """List the samples of B that are in A, exactly or nearly: what an external set shares with a training set.

    Example: brainscale overlap training.parquet external.parquet
    """
    from brainscale import index as indexing
    from brainscale.overlap import overlap as find

    other_table = indexing.read_manifest(other)
    found = find(indexing.read_manifest(one), other_table, distance)
    if out:
        indexing.write_manifest(found, Path(out).absolute())
    if as_json:
        click.echo(json.dumps(found.to_pylist(), indent=2))
        return
    for row in found.to_pylist():
        near = row["kind"] if not row["distance"] else f"{row['kind']}, {row['distance']} bits"
        click.echo(f"{row['sample_id']}  {near}  {row['other']}")
    click.echo(f"{len(found)} of {len(other_table)} samples of {other} are in {one}", err=True)


@main.command()
@click.option("--data", required=True, metavar="SOURCE|M.parquet", help="What to train on.")
@click.option("--out", required=True, metavar="RUN", help="The run's folder; the same again continues it.")
@click.option("--config", metavar="NAME|FILE", help="A named configuration or a YAML file.")
@click.option("--model", metavar="NAME", help="The network: brainmrnet, brainmrnet_paper, vgg16, …")
@click.option("--workers", type=click.IntRange(1), help="Data-parallel workers; the result does not depend on it.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the network lives.")
@click.option("--seed", type=click.IntRange(0), help="Of every random draw.")
@click.option("--epochs", type=click.IntRange(1), help="At most so many.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Any value of the configuration.")
@_address
@_json
@common
def train(
    data: str,
    out: str,
    config: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    as_json: bool,
    **named: Any,
) -> None:
    """Train a model, or go on with a run that was stopped.

    Example: brainscale train --data scans/ --config brainmrnet --out runs/first
    """
    from brainscale import config as configuration

    places = {
        "model": "model.name",
        "workers": "resources.workers",
        "device": "resources.device",
        "seed": "train.seed",
        "epochs": "train.epochs",
    }
    chosen = [f"{places[name]}={value}" for name, value in named.items() if value is not None]
    settings = configuration.load(config, [*chosen, *overrides])
    request: dict[str, Any] = {
        "data": _absolute(data),
        "out": _absolute(out),
        "config": settings.model_dump(mode="json"),
    }
    if address:
        _submit(address, "train", request)
    from brainscale import cluster
    from brainscale.progress import epochs
    from brainscale.train import train as run

    complete = _is_complete(request["out"])
    with cluster.local(settings.resources.workers), epochs(settings.train.epochs) as (on_epoch, on_notice):
        facts = run(request["data"], request["out"], settings, on_epoch, on_notice)
    _say_if(complete, out)
    print_facts({"run": out, **facts}, as_json)


@main.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", metavar="SOURCE|M.parquet", help="What to evaluate on.  [default: the run's own manifest]")
@click.option("--split", "side", metavar="SIDE", help="train, val, test or all.  [default: test where there is one]")
@click.option("--out", metavar="DIR", help="Where to write.  [default: MODEL/evaluation/SIDE]")
@_engine
@_workers
@_address
@_json
@common
def evaluate(
    model: str,
    data: str | None,
    side: str | None,
    out: str | None,
    engine: str,
    workers: int,
    address: str | None,
    as_json: bool,
) -> None:
    """Evaluate a model on labelled samples: predictions, metrics and a report.

    Example: brainscale evaluate runs/first --split test --out evaluation/
    """
    request: dict[str, Any] = {
        "model": _absolute(model),
        "out": out and _absolute(out),
        "data": data and _absolute(data),
        "split": side,
        "engine": engine,
        "workers": workers,
    }
    if address:
        _submit(address, "evaluate", request)
    from brainscale import cluster
    from brainscale.evaluate import evaluate as run

    with cluster.local(workers):
        facts = run(**request)
    print_facts(facts, as_json)


@main.command()
@click.argument("model", metavar="MODEL")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, metavar="DIR", help="Folder of Parquet parts; the same again continues it.")
@click.option("--update", is_flag=True, help="Add files that are new in the sources to a complete folder.")
@click.option("--by", type=click.Choice(["scan"]), help="A second table: one row for each series or volume.")
@click.option("--threshold", type=click.FloatRange(0, 1), help="In place of the model's own.")
@click.option("--heatmaps", metavar="DIR", help="Pictures of what spoke for a tumour in the surest positives.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many pictures.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="On a GPU.")
@click.option("--compile", "compiled", is_flag=True, help="Let torch compile the network first.")
@click.option("--patient-key", metavar="FILE", help="Key of the hashes of series.  [default: one in DIR]")
@_engine
@_workers
@_address
@_json
@common
def score(
    model: str,
    sources: tuple[str, ...],
    out: str,
    heatmaps: str | None,
    top: int,
    patient_key: str | None,
    address: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score every sample of the sources: one row each, scored or explained.

    A SOURCE is what `index` takes, or one manifest. Stopped or killed, the same command goes on where it was.

    Example: brainscale score runs/first archive/ --out scores/
    """
    request: dict[str, Any] = {
        "model": _absolute(model),
        "sources": [_absolute(s) for s in sources],
        "out": _absolute(out),
        "patient_key": patient_key and _absolute(patient_key),
        "heatmaps": heatmaps and _absolute(heatmaps),
        "top": top,
        **settings,
    }
    if address:
        _submit(address, "score", request)
    from brainscale import cluster
    from brainscale.progress import Bar
    from brainscale.score import score as run

    complete = _is_complete(request["out"])
    with cluster.local(settings["workers"]), Bar() as bar:
        facts = run(**request, on_start=bar.start, on_part=bar.advance)
    _say_if(complete and "rows_now" not in facts, out)
    print_facts({"scores": out, **facts}, as_json)


@main.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="T.parquet", help="Write the table as Parquet too.")
@_json
@common
def compare(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Print the result table of several runs, one row for each model.

    Runs that were not evaluated yet are, on their test side.

    Example: brainscale compare runs/brainmrnet runs/resnet50 --out table.parquet
    """
    from contextlib import nullcontext

    from brainscale import cluster
    from brainscale import compare as comparing
    from brainscale.index import write_manifest

    with nullcontext() if comparing.ready(runs) else cluster.local(1):
        table = comparing.compare(runs)
    if not comparing.same_samples(runs):
        click.echo("Note: these runs were evaluated on different samples; their figures do not compare.", err=True)
    if out:
        write_manifest(table, Path(out).absolute())
    click.echo(json.dumps(table.to_pylist(), indent=2) if as_json else comparing.as_text(table))


@main.command()
@click.argument("one", metavar="RUN_A")
@click.argument("other", metavar="RUN_B")
@_json
@common
def verify(one: str, other: str, as_json: bool) -> None:
    """Say whether two runs are equal to the bit, or the first step and tensor where they part; exit status 1 then.

    Example: brainscale verify runs/first runs/second
    """
    from brainscale.verify import as_text
    from brainscale.verify import verify as run

    facts = run(one, other)
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))
    sys.exit(0 if facts["equal"] else 1)


def _is_complete(out: str) -> bool:
    from brainscale.files import read_success

    return read_success(Path(out)) is not None


def _say_if(complete: bool, out: str) -> None:
    if complete:
        click.echo(f"{out} was complete already: nothing was done", err=True)


def _absolute(source: str) -> str:
    if source.startswith("@"):
        return f"@{Path(source[1:]).absolute()}"
    return source if "://" in source else str(Path(source).absolute())


def _submit(address: str, command: str, request: dict[str, Any]) -> None:
    """Run the command as a job and leave with its exit status."""
    from brainscale import cluster

    sys.exit(cluster.submit(address, command, request, lambda text: click.echo(text, nl=False)))
