"""Commands that run models: score, demo."""

from pathlib import Path
from typing import Any

import click

from brainscale.cli import options
from brainscale.cli.console import common, print_facts
from brainscale.logs import notice
from brainscale.storage.remote import absolute


@click.command()
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
@options.engine
@options.workers
@click.option("--min-workers", type=click.IntRange(1), help="That begin, and stay when idle.  [default: all]")
@click.option("--cpus-per-worker", type=click.IntRange(1), help="Of each engine.  [default: a node's, shared evenly]")
@click.option("--object-store-gib", type=click.FloatRange(0.1), help="Memory for blocks of a local Ray.")
@options.shared
@options.address
@options.json
@common
def score(
    model: str,
    sources: tuple[str, ...],
    out: str,
    heatmaps: str | None,
    top: int,
    patient_key: str | None,
    object_store_gib: float | None,
    address: str | None,
    no_wait: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score every sample of the sources: one row each, scored or explained.

    A SOURCE is what `index` takes, or one manifest. Stopped or killed, the same command goes on where it was.

    Example: brainscale score runs/first archive/ --out scores/
    """
    request: dict[str, Any] = {
        "model": absolute(model),
        "sources": [absolute(s) for s in sources],
        "out": absolute(out),
        "patient_key": patient_key and absolute(patient_key),
        "heatmaps": heatmaps and absolute(heatmaps),
        "top": top,
        **settings,
    }
    if address:
        options.submit(address, no_wait, "score", request, as_json)
    from brainscale.cli.progress import Bar
    from brainscale.cluster import session
    from brainscale.scoring.bulk import score_files as run
    from brainscale.storage.workspace import is_complete

    complete = is_complete(request["out"])
    with session.session(settings["workers"], object_store_gib), Bar() as bar:
        scores = run(**request, on_start=bar.start, on_part=bar.advance, on_notice=notice)
    options.notice_if(complete and scores.progress is None, out)
    print_facts({"scores": out, **scores.to_json()}, as_json)


@click.command()
@click.option("--out", default="demo", show_default=True, help="Folder for the phantoms and results.")
@common
def demo(out: str) -> None:
    """Make phantoms, train, evaluate, score and compare; minutes on two cores.

    Example: brainscale demo --out demo
    """
    from brainscale.cli.demo import run_demo as run
    from brainscale.cluster import session

    with session.session():
        run(Path(out), say=click.echo)
