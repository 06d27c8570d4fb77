"""The last line of a command: what to run next, with the paths at hand."""

import shlex
from pathlib import Path
from typing import Any

from brainscale import logs


def print_next(text: str | None) -> None:
    """Write to standard error what comes next, if there is something."""
    if text is not None:
        logs.log("next", f"Next: {text}")


def _command(*words: object) -> str:
    return shlex.join(["brainscale", *map(str, words)])


def after_index(out: str, labels: Any) -> str | None:
    """Return what follows a manifest; None for a listing in CSV or JSON, which no command reads.

    Args:
        out: path of the manifest.
        labels: label → number of samples.
    """
    if out.endswith((".csv", ".json")):
        return None
    if not labels:
        return f"{_command('score', 'MODEL', out, '--out', 'scores/')} (there are no labels to train on)"
    stem = out.rstrip("/").removesuffix(".parquet")
    return _command("split", out, "--out", f"{stem}-split{'/' if out.endswith('/') else '.parquet'}")


def after_split(manifest: str, folds: int | None, folds_by: str | None) -> str:
    """Return what follows a manifest with splits or folds."""
    if folds_by is not None:
        return _command("train", "--data", manifest, "--folds-by", folds_by, "--out", "runs/folds")
    if folds is not None:
        return _command("train", "--data", manifest, "--folds", folds, "--out", "runs/folds")
    return _command("train", "--data", manifest, "--out", "runs/first")


def after_training(run: str) -> str:
    """Return what follows a trained model."""
    return _command("evaluate", run)


def after_cross_validation(folder: str, models: list[str]) -> str:
    """Return what follows a cross-validation: one model of those of its folds."""
    root = folder.rstrip("/")
    runs = [f"{root}/{model}" for model in models]
    if len(runs) > 2:
        return f"{_command('ensemble', *runs[:2])} … --out {shlex.quote(f'{root}-ensemble')}"
    return _command("ensemble", *runs, "--out", f"{root}-ensemble")


def after_evaluation(model: str, report: str | None) -> str:
    """Return what follows an evaluation.

    Args:
        model: the model that was evaluated.
        report: path of its report, if it was written.
    """
    compare = f"{_command('compare', model)} OTHER_RUN"
    return compare if report is None else f"open {shlex.quote(report)}, or {compare}"


def after_comparison(runs: tuple[str, ...]) -> str:
    """Return what follows a comparison: the use of a model."""
    model = next((run for run in runs if (Path(run) / "model").is_dir()), None)
    return f"{'brainscale score RUN' if model is None else _command('score', model)} SOURCE --out scores/"


def after_scoring(out: str) -> str:
    """Return where the rows are, and how to read them."""
    if out.endswith(".csv"):
        return f"open {shlex.quote(out)}, a row for each sample"
    return f"read the rows, in Python: pandas.read_parquet({out!r})"


def after_overlap(external: str, matches: int) -> str:
    """Return what follows a check of an external set."""
    evaluate = f"brainscale evaluate RUN --data {shlex.quote(external)}"
    return (
        f"{evaluate} (its report gives the metrics without the {matches} shared samples too)" if matches else evaluate
    )
