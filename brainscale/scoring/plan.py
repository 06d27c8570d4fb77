"""Plan a scoring job without starting it: what it reads, uses and writes, what is there, and how long it takes.

The checks are those of the job itself, save for those that only a connected Ray can make. Nothing is written.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from brainscale.models.bundle import BUNDLE_FILES, Bundle, open_bundle
from brainscale.models.engines import EngineOptions, resolve_engine
from brainscale.models.shipped import describe_model_notes, locate_model
from brainscale.reading.keys import kept_key_file, read_key
from brainscale.reading.pace import MEASURING
from brainscale.scoring.bulk import list_source_files, open_job, read_complete
from brainscale.scoring.duration import ScoringDuration, ScoringWorkplace, find_workplace, measure_duration
from brainscale.scoring.folder_job import Callbacks, FolderJob
from brainscale.scoring.folders import OWN_FILES, require_scores
from brainscale.scoring.outputs import HEATMAP_FILES, units_file
from brainscale.scoring.predictions import ScoringJob
from brainscale.scoring.result import Amount, Scores
from brainscale.scoring.single_file import name_units, open_file_job, wants_file
from brainscale.scoring.spool import SpooledFiles
from brainscale.stats.units import require_unit
from brainscale.storage.folder import Folder
from brainscale.storage.remote import is_address
from brainscale.storage.workspace import fetch, require_folder

SETTINGS: Mapping[str, Any] = {
    "engine": "auto",
    "workers": None,
    "min_workers": None,
    "cpus_per_worker": None,
    "object_store_gib": None,
    "threshold": None,
    "precision": "fp32",
    "compiled": False,
    "unit": None,
    "patient_key": None,
    "hash_paths": False,
    "heatmaps": None,
}
"""Arguments of `score_to` that a plan depends on, with their defaults."""


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """The model that is used.

    Attributes:
        location: path or address of it, or the name of a model that comes with brainscale.
        network: name of the network.
        weights_sha256: hash of the weights.
        classes: names of the classes.
        image_size: width and height of a plane, in pixels.
        threshold: operating threshold.
        threshold_source: how it was chosen; `--threshold` if it was given.
    """

    location: str
    network: str
    weights_sha256: str
    classes: tuple[str, ...]
    image_size: int
    threshold: float
    threshold_source: str


@dataclass(frozen=True, kw_only=True)
class ScoringPlan:
    """What `score` would do.

    Attributes:
        sources: what is read.
        total: files of the job, their size, and about how many rows they give.
        left: what of these is left to score.
        model: the model.
        out: path or address of the scores.
        state: new, begun or complete.
        others: label → path or address of what else is written.
        files_left_out: files that are new since the job began, and are scored with `--update` only.
        workplace: where it runs; None if nothing is left.
        duration: how long it takes; None if nothing is left.
    """

    sources: Sequence[str]
    total: Amount
    left: Amount
    model: ScoringModel
    out: str
    state: Literal["new", "begun", "complete"]
    others: Mapping[str, str]
    files_left_out: int = 0
    workplace: ScoringWorkplace | None = None
    duration: ScoringDuration | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `score --dry-run --json` prints it."""
        amounts = {
            name: {part: value for part, value in asdict(amount).items() if part != "errors"}
            for name, amount in (("total", self.total), ("left", self.left))
        }
        return asdict(self) | amounts


def plan_scoring(
    model: str,
    sources: Sequence[str],
    out: str,
    *,
    overwrite: bool = False,
    update: bool = False,
    prune: bool = False,
    allow_edited_model: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> ScoringPlan:
    """Plan a scoring job: judge its arguments as `score_to` does, without Ray, and measure this machine for seconds.

    Args:
        model: as `score_to` takes it, like all arguments.
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses; or one manifest.
        out: path or address of a folder or a file.
        overwrite: whether to replace a file that is not this job's own.
        update: whether to score files that are new in the sources of a folder.
        prune: whether to drop the rows of files that are gone.
        allow_edited_model: whether to score with a model whose model.json was edited.
        on_notice: called with each message for the user.
        settings: the other arguments of `score_to`.

    Raises:
        BrainscaleError: `score_to` would refuse these arguments.
    """
    is_file = wants_file(out, overwrite=overwrite, extends=update or prune)
    asked = dict(SETTINGS) | {name: value for name, value in settings.items() if name in SETTINGS}
    options = EngineOptions(name=asked["engine"], precision=asked["precision"], compiled=asked["compiled"])
    resolve_engine(options, 0)
    with fetch(locate_model(model), *BUNDLE_FILES) as bundle_folder:
        bundle = open_bundle(bundle_folder, allow_edited=allow_edited_model)
        for text in describe_model_notes(bundle):
            on_notice(text)
        draft = _Draft(
            model=model, bundle=bundle, sources=sources, out=out, is_file=is_file, options=options, asked=asked
        )
        if not is_file:
            place = out if is_address(out) else str(Path(out))
            return draft.finish(Folder(place), on_notice, update=update, prune=prune)
        file_job, scores = open_file_job(bundle, sources, out, overwrite=overwrite, **asked)
        if scores is not None:
            return draft.complete(scores)
        return draft.finish(Folder(file_job.parts), on_notice, update=True, prune=True)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A plan whose output has not been looked at yet."""

    model: str
    bundle: Bundle
    sources: Sequence[str]
    out: str
    is_file: bool
    options: EngineOptions
    asked: Mapping[str, Any]

    def finish(self, folder: Folder, on_notice: Callable[[str], None], *, update: bool, prune: bool) -> ScoringPlan:
        """Look at a folder of parts, and measure what is left to do."""
        self._check_folders(folder)
        files = SpooledFiles(list_source_files(self.sources, self.bundle.info.preprocess))
        job = self._open_job(folder, extends=(update or prune) and not self.is_file)
        if job is None:
            return self.complete(read_complete(folder))
        callbacks = Callbacks(lambda total, done: None, lambda done: None, on_notice)
        folder_job = FolderJob(
            folder, job, files, _never_opened, callbacks, update=update, prune=prune, store_seconds=0.0
        )
        outlook = folder_job.look()
        if outlook.scores is not None:
            return self.complete(outlook.scores)
        on_notice(MEASURING)
        total, left = folder_job.count_work(outlook.listing)
        workplace = find_workplace(job, files, self.asked["object_store_gib"])
        new = outlook.changes.new if outlook.listing is not None and not update else 0
        plan = self._plan("new" if outlook.listing is None else "begun", total, left)
        return replace(
            plan,
            others={**plan.others, **self._kept_key(folder)},
            files_left_out=new,
            workplace=workplace,
            duration=measure_duration(job, files, left, workplace),
        )

    def complete(self, scores: Scores) -> ScoringPlan:
        """Return the plan for an output in which there is nothing to do."""
        total = Amount(files=scores.files, rows=scores.rows)
        return self._plan("complete", total, Amount())

    def _plan(self, state: Literal["new", "begun", "complete"], total: Amount, left: Amount) -> ScoringPlan:
        info, threshold = self.bundle.info, self.asked["threshold"]
        model = ScoringModel(
            location=self.model,
            network=info.architecture,
            weights_sha256=info.weights_sha256,
            classes=tuple(info.classes),
            image_size=info.preprocess.image_size,
            threshold=info.threshold if threshold is None else threshold,
            threshold_source=info.threshold_source if threshold is None else "--threshold",
        )
        return ScoringPlan(
            sources=list(self.sources),
            total=total,
            left=left,
            model=model,
            out=self.out,
            state=state,
            others=self._others(),
        )

    def _others(self) -> dict[str, str]:
        """Return label → path or address of what is written beside the scores."""
        others, unit = {}, self.asked["unit"]
        if unit is not None:
            of_folder = units_file(Folder(self.out.rstrip("/")), require_unit(unit, ("scan", "patient")))
            others[f"{unit}s"] = name_units(self.out, unit) if self.is_file else of_folder
        if self.asked["heatmaps"]:
            others["heatmaps"] = self.asked["heatmaps"]
        return others

    def _kept_key(self, folder: Folder) -> dict[str, str]:
        """Return the place of the key that is drawn for hashed names, if none was given."""
        is_drawn = self.asked["hash_paths"] and read_key(self.asked["patient_key"]).random
        return {"key of the hashes": str(kept_key_file(folder.location))} if is_drawn else {}

    def _check_folders(self, folder: Folder) -> None:
        require_folder(folder.location, OWN_FILES, "scores")
        require_scores(folder)
        if self.asked["heatmaps"]:
            require_folder(self.asked["heatmaps"], HEATMAP_FILES, "heatmaps")

    def _open_job(self, folder: Folder, *, extends: bool) -> ScoringJob | None:
        names = ("threshold", "unit", "patient_key", "hash_paths", "workers", "min_workers", "cpus_per_worker")
        return open_job(
            folder,
            self.bundle,
            self.sources,
            engine=self.options,
            extends=extends,
            make_key=lambda location: secrets.token_bytes(32),  # the job itself keeps one
            **{name: self.asked[name] for name in names},
        )


def _never_opened() -> NoReturn:
    raise AssertionError("a plan runs nothing")
