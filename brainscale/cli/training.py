"""Commands on runs: train and verify."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from brainscale.cli import options, planning
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import after_cross_validation, after_training, print_next
from brainscale.errors import UsageError
from brainscale.logs import notice

CONFIGURED = "set by the configuration"
KEYS = {
    "model": "model.name",
    "workers": "resources.workers",
    "device": "resources.device",
    "seed": "train.seed",
    "epochs": "train.epochs",
    "confidence": "operating.confidence",
}
"""Options of `train`, and the keys of the configuration that they override."""


@click.command("train")
@click.option(
    "--data",
    required=True,
    metavar="SOURCE|M.parquet",
    help="Training data: a source to index and split, or a manifest.",
)
@click.option(
    "--out", required=True, metavar="RUN", help="Folder of the run; the same command again resumes a stopped run."
)
@click.option("--config", metavar="NAME|FILE", show_default="brainmrnet", help="Configuration: a name, or a YAML file.")
@click.option(
    "--model",
    metavar="NAME",
    show_default=CONFIGURED,
    help="Network: brainmrnet, brainmrnet_paper, vgg16, resnet50, densenet121 or efficientnet_lite0.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default=options.PER_GPU_OR_NODE,
    help="Number of data-parallel workers; the result does not depend on it.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), show_default=CONFIGURED, help="Device to train on."
)
@click.option("--seed", type=click.IntRange(0), metavar="N", show_default=CONFIGURED, help="Random seed.")
@click.option(
    "--epochs", type=click.IntRange(1), metavar="N", show_default=CONFIGURED, help="Maximum number of epochs."
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    metavar="N",
    help="Number of cross-validation folds; each fold is the test split of one run.",
)
@click.option(
    "--folds-by",
    metavar="COLUMN",
    help="Column of the manifest each of whose values is one fold, such as a site, instead of --folds.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="Number of cross-validations, each with new folds.",
)
@click.option(
    "--parallel-folds",
    type=click.IntRange(1),
    metavar="N",
    show_default="as many as the cluster has room for",
    help="Maximum number of folds trained at the same time.",
)
@click.option(
    "--target-sensitivity",
    type=click.FloatRange(0, 1, True),
    metavar="FRACTION",
    help="Use the highest threshold that has at least this sensitivity, by a lower bound on the validation split.",
)
@click.option(
    "--target-specificity",
    type=click.FloatRange(0, 1, True),
    metavar="FRACTION",
    help="Use the lowest threshold that has at least this specificity, by a lower bound on the validation split.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, False, True),
    metavar="FRACTION",
    show_default=CONFIGURED,
    help="Confidence of the lower bound of the target sensitivity or specificity.",
)
@click.option("--youden", is_flag=True, help="Set the threshold by Youden's index on the validation split.")
@click.option(
    "--calibrate", is_flag=True, help="Calibrate probabilities by temperature scaling on the validation split."
)
@click.option(
    "--allow-other-hardware",
    is_flag=True,
    help="Resume a run on other hardware or library versions, which gives other bits and marks the run.",
)
@click.option("--mlflow", "tracking", metavar="URI", help="MLflow server or folder to record the run in.")
@options.shared
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="section.key=value",
    help="Override a value of the configuration. Can be given several times.",
)
@options.dry_run
@options.address
@options.json
@handle_errors
def train_command(
    data: str,
    out: str,
    config: str | None,
    overrides: tuple[str, ...],
    folds: int | None,
    folds_by: str | None,
    repeats: int,
    parallel_folds: int | None,
    target_sensitivity: float | None,
    target_specificity: float | None,
    youden: bool,
    calibrate: bool,
    allow_other_hardware: bool,
    tracking: str | None,
    shared: bool,
    dry_run: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a model, resume a stopped run, or cross-validate a model.

    Example: brainscale train --data scans/ --config brainmrnet --out runs/first
    """
    load_arrow()
    from brainscale.config import files
    from brainscale.storage.remote import make_absolute
    from brainscale.training.mlflow_tracking import check_tracking_uri, require_mlflow

    is_cross_validation = folds is not None or folds_by is not None
    if tracking is not None and is_cross_validation:
        option = "--folds" if folds_by is None else "--folds-by"
        raise UsageError(f"--mlflow records one run, but {option} trains several: remove one of the two")
    targets = {"sensitivity": target_sensitivity, "specificity": target_specificity}
    targets = {metric: target for metric, target in targets.items() if target is not None}
    choices = [*(["--youden"] if youden else []), *(f"--target-{metric}" for metric in targets)]
    if len(choices) > 1:
        raise UsageError(f"{choices[0]} and {choices[1]} both set the threshold: remove one of the two")
    chosen = [f"{KEYS[name]}={value}" for name, value in values.items() if value is not None]
    chosen += ["operating.temperature=true"] if calibrate else []
    chosen += ["resources.allow_other_hardware=true"] if allow_other_hardware else []
    chosen += ["resources.shared=true"] if shared else []
    chosen += ["operating.threshold=youden"] if youden else []
    for metric, target in targets.items():
        chosen += [f"operating.threshold={metric}", f"operating.target={target}"]
    settings = files.load_config(config, [*chosen, *overrides])
    request: dict[str, Any] = {
        "data": make_absolute(data),
        "out": make_absolute(out),
        "config": settings.model_dump(mode="json"),
        "folds": folds,
        "folds_by": folds_by,
        "repeats": repeats,
        "parallel_folds": parallel_folds,
    }
    tracking_uri = tracking and check_tracking_uri(tracking)
    if is_cross_validation:
        from brainscale.evaluation.arguments import check_cross_validation, require_folds

        require_folds(folds, folds_by, repeats)
    if dry_run:
        if tracking_uri:
            require_mlflow()
        planning.show_training_plan(request, settings, address, as_json)
        return
    if address:
        then = None if is_cross_validation else after_training(out)
        options.run_as_job(address, no_wait, "train", request | {"tracking": tracking_uri}, as_json, then)
    if tracking_uri:
        require_mlflow()
    from brainscale.cli.progress import show_progress

    if is_cross_validation:
        check_cross_validation(request["data"], request["out"], folds, folds_by, repeats)
        with show_progress() as display:
            display.announce(f"Cross-validating {settings.model.name} on {data}, in {out}")
            from brainscale.evaluation.cross_validation import cross_validate  # here: torch takes seconds to load

            result = cross_validate(**request | {"config": settings}, on_notice=notice)
        click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.to_text())
        print_next(after_cross_validation(out, list(result.models)))
        return
    from brainscale.training.arguments import find_finished

    run = find_finished(request["data"], request["out"], settings, notice)
    if run is not None:
        options.notice_if_complete(True, out)
    else:
        epochs = settings.train.epochs
        with show_progress() as display:
            display.announce(f"Training {settings.model.name} on {data}, for {epochs} epochs at most, in {out}")
            from brainscale.training.driver import train_model  # here: torch takes seconds to load

            def on_epoch(row: Mapping[str, Any]) -> None:
                display.show_epoch(row, epochs)

            run = train_model(request["data"], request["out"], settings, on_epoch, notice, tracking_uri)
    print_facts({"run": out, **run.facts()}, as_json)
    print_next(after_training(out))


@click.command("verify")
@click.argument("one", metavar="RUN_A")
@click.argument("other", metavar="RUN_B")
@options.json
@handle_errors
def verify_command(one: str, other: str, as_json: bool) -> None:
    """Check that two runs are equal to the bit, or show the first step and tensor that differ.

    The exit status is 1 if they differ.

    Example: brainscale verify runs/first runs/second
    """
    load_arrow()
    from brainscale.cli.progress import show_progress
    from brainscale.storage.workspace import fetch
    from brainscale.training.verification import READ, compare_bits

    with show_progress(), fetch(one, *READ) as one_folder, fetch(other, *READ) as other_folder:
        comparison = compare_bits(one_folder, other_folder)
    click.echo(json.dumps(comparison.to_json(), indent=2) if as_json else comparison.to_text())
    if comparison.equal:
        print_next(after_training(one))
    sys.exit(0 if comparison.equal else 1)
