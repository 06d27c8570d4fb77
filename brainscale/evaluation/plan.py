"""Plan a cross-validation without starting it: its runs, what of them is there already, and how long they take."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.errors import UsageError
from brainscale.evaluation.arguments import FOLDS_FILES, check_cross_validation
from brainscale.evaluation.cross_validation import name_folds, refuse_other, require_same_manifests
from brainscale.evaluation.fold_data import divide_into_folds
from brainscale.evaluation.folds import Fold, can_train_folds_here
from brainscale.formatting import format_sections
from brainscale.reading.pace import MEASURING
from brainscale.reading.small_jobs import is_ray_near
from brainscale.storage.local import SUCCESS, read_success
from brainscale.storage.remote import is_address
from brainscale.storage.workspace import Workspace, is_complete, open_workspace
from brainscale.training.duration import Duration, measure_duration
from brainscale.training.plan import OutputPlan, Recipe, describe_recipe, plan_run
from brainscale.training.plan_text import describe_workplace, duration_lines, recipe_lines, size_lines
from brainscale.training.planned_data import can_open, describe_data, list_files_to_read
from brainscale.training.workers import count_workers, set_workers
from brainscale.training.workplace import Workplace, find_workplace


@dataclass(frozen=True, kw_only=True)
class FoldPlan:
    """One run.

    Attributes:
        title: its repeat and fold, for people.
        samples: split → number of samples.
        output: what is in its folder, and what will be.
    """

    title: str
    samples: Mapping[str, int]
    output: OutputPlan


@dataclass(frozen=True, kw_only=True)
class CrossValidationPlan:
    """What `train --folds` would do.

    Attributes:
        data: path or address of the data.
        out: path or address of the folder of all runs.
        state: `complete`, or `open` if there is something to do.
        folds: number of folds.
        repeats: number of times that the data is divided.
        runs: the runs, in their order.
        recipe: what each of them trains; steps are those of the first.
        workplace: where a run trains; None if nothing is left.
        duration: how long the runs take one after another, without their evaluations; None if nothing is left, or a GPU
            is asked for that is not on this machine.
    """

    data: str
    out: str
    state: Literal["open", "complete"]
    folds: int
    repeats: int
    runs: Sequence[FoldPlan]
    recipe: Recipe
    workplace: Workplace | None
    duration: Duration | None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `train --folds --dry-run --json` prints it."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the plan as text."""
        states = Counter(run.output.state for run in self.runs)
        runs = {"runs": f"{len(self.runs)}: {self.folds} folds, {self.repeats} time(s)"}
        runs |= {split: f"{self._range(split)} samples of a run" for split in ("train", "val", "test")}
        count = len(self.runs) - states["complete"]
        there = ", ".join(f"{states[state]} {state}" for state in ("complete", "begun", "new") if states[state])
        writes = {"folder": f"{self.out}: {there}"}
        if self.state == "complete":
            writes["folder"] = f"{self.out}: complete already: nothing to do"
        else:
            writes |= size_lines(self.runs[0].output, count)
        where = {} if self.workplace is None else {"where": describe_workplace(self.workplace)}
        takes = {"time": "none" if not count else "not known: the GPU that is asked for is not on this machine"}
        if self.duration is not None:
            takes = duration_lines(self.duration, at_most=self.recipe.patience is not None, runs=count)
        sections = {"Reads": {"data": self.data, **runs}, "Trains": recipe_lines(self.recipe) | where}
        return format_sections({**sections, "Writes": writes, "Takes": takes})

    def _range(self, split: str) -> str:
        counts = [run.samples.get(split, 0) for run in self.runs]
        return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def plan_cross_validation(
    data: str,
    out: str,
    config: Config,
    *,
    folds: int | None,
    folds_by: str | None,
    repeats: int,
    parallel_folds: int | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> CrossValidationPlan:
    """Plan a cross-validation: judge its arguments as `cross_validate` does, without Ray, and measure this machine.

    Args:
        data: a manifest or a source, by path or address.
        out: path or address of the folder of all runs.
        config: configuration of each run.
        folds: number of folds; None with `folds_by`.
        folds_by: column whose values are the folds.
        repeats: number of times that the data is divided.
        parallel_folds: maximum number of folds to train at the same time.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: `cross_validate` would refuse these arguments, or the data takes long to index.
    """
    check_cross_validation(data, out, folds, folds_by, repeats)
    if not can_open(data):
        raise UsageError(
            f"{data} takes longer to index than a plan: run `brainscale index`, and plan with the manifest as --data"
        )
    on_notice(MEASURING)
    folded = divide_into_folds(data, config, folds, folds_by, repeats, on_notice)
    config = set_workers(config, count_workers(config))  # as the cross-validation does
    facts = {
        "folds_by": folds_by,
        "repeats": repeats,
        "config_sha256": config.fingerprint,
        "folds": folded.folds,
        "manifest_sha256": folded.fingerprint,
    }
    samples = [describe_data(data, model, config) for model in folded.models]
    workplace = _find_workplace(config, parallel_folds, max(counts.count_read() for counts in samples))
    with _look_into(out) as workspace:
        finished = read_success(workspace.path)
        refuse_other(workspace, finished, facts)
        every_fold = name_folds(workspace, folded, repeats, folds_by)
        if finished is None:
            require_same_manifests(workspace, every_fold, folded)
        plan_of = _plan_nothing if finished is not None else partial(_plan_fold, config=config, workplace=workplace)
        outputs = [plan_of(fold, model) for fold, model in zip(every_fold, folded.models, strict=True)]
    left = [(data, plan.epochs_done) for data, plan in zip(samples, outputs, strict=True) if plan.state != "complete"]
    files = list_files_to_read(data, folded.models[0], config)
    return CrossValidationPlan(
        data=data,
        out=out,
        state="open" if finished is None else "complete",
        folds=folded.folds,
        repeats=repeats,
        runs=[
            FoldPlan(title=fold.title, samples={split: counts.count(split) for split in counts.splits}, output=output)
            for fold, counts, output in zip(every_fold, samples, outputs, strict=True)
        ],
        recipe=describe_recipe(config, samples[0]),
        workplace=workplace if left else None,
        duration=measure_duration(config, left, workplace, files) if left else None,
    )


def _find_workplace(config: Config, parallel_folds: int | None, samples: int) -> Workplace:
    """Return where a fold trains: on Ray too if several are trained side by side."""
    place = find_workplace(config, samples)
    if place.ray != "none" or can_train_folds_here(config, parallel_folds, samples):
        return place
    return replace(place, ray="connected" if is_ray_near() else "local")


@contextmanager
def _look_into(out: str) -> Iterator[Workspace]:
    """Yield the folder of all runs to look at: the folder itself, or a copy of one file of one in a store."""
    if is_address(out):
        with open_workspace(out, (SUCCESS,), own_files=FOLDS_FILES, what="cross-validation") as workspace:
            yield workspace
    else:
        yield Workspace(Path(out))


def _plan_nothing(fold: Fold, model: pa.Table) -> OutputPlan:  # noqa: ARG001 (of a complete cross-validation)
    return OutputPlan(run=fold.run, state="complete")


def _plan_fold(fold: Fold, model: pa.Table, *, config: Config, workplace: Workplace) -> OutputPlan:
    """Return what is in the folder of a run, and what will be."""
    if is_complete(fold.run):
        return OutputPlan(run=fold.run, state="complete")
    return plan_run(fold.run, config, model, workplace)
