"""Run studies, and write the table of results, its plots, the released indices and the page."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from brainscale.errors import BrainscaleError, FormatError, OutputError, UsageError
from brainscale.evaluation.study.arguments import MODELS_KIND, check_studies, origin_of
from brainscale.evaluation.study.budget import RowBudget
from brainscale.evaluation.study.data_sets import released_index
from brainscale.evaluation.study.divisions import number_folds
from brainscale.evaluation.study.files import StudyFile
from brainscale.evaluation.study.measures import FACT, measure_studies
from brainscale.evaluation.study.page import render_page
from brainscale.evaluation.study.pausing import busy_file
from brainscale.evaluation.study.plots import draw_plots
from brainscale.evaluation.study.released_models import MODELS_FILE, find_released, released_models, take_models
from brainscale.evaluation.study.results_table import Results
from brainscale.evaluation.study.runs import Outcome, StudyPlan, choose_pieces, make_plan, own_folder, run_pieces
from brainscale.storage.local import make_folder, replacing
from brainscale.storage.tables import read_table, write_table


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """What `brainscale results` has done.

    Attributes:
        page: the page.
        table_file: the table that it is made from.
        table: the same, of schema RESULTS.
        outcome: models that were completed, and what is left.
        hours_left: hours that the rest of all parts takes.
    """

    page: Path
    table_file: Path
    table: pa.Table
    outcome: Outcome
    hours_left: float


def run_studies(
    files: Sequence[StudyFile],
    places: Mapping[str, str],
    out: str,
    *,
    parts: Sequence[str] = (),
    rows: Sequence[str] = (),
    minutes: float | None = None,
    parallel: int = 1,
    page: str | None = None,
    models: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    force: bool = False,
    command: str = "brainscale results",
    on_budget: Callable[[Sequence[RowBudget]], None] = lambda budget: None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> StudyResults | None:
    """Run what is missing of studies, and write the table and the page of what is complete.

    Args:
        files: the studies.
        places: data set → where it lies.
        out: folder of all runs.
        parts: names of the parts to run; all without any.
        rows: names of the rows to run; all without any.
        minutes: time limit; None: until all is complete.
        parallel: number of models that are trained at the same time, each with `train.threads` threads.
        page: where to write the page; by default results.md in `out`.
        models: a table of released models: those that the studies plan are taken from it and not trained.
        overwrite: whether to replace a page of other studies, or another file in its place.
        dry_run: whether to say only what is done and left, and how long that takes.
        force: whether to run studies that take longer than their budget.
        command: command that the page names.
        on_budget: called with the hours of each row before anything is run.
        on_notice: called with each message for the user.

    Returns:
        What was done; None for a dry run.

    Raises:
        BrainscaleError: a data set cannot be used, a study takes longer than its budget, or another command runs in
            the folder.
    """
    check_studies(files, places, out, parts, rows, page=page, models=models, overwrite=overwrite)
    origin = origin_of(files)
    plan = make_plan(files, places, out, on_notice)
    if models is not None and dry_run:
        plan = replace(plan, released=frozenset(find_released(models, plan)))
        on_notice(f"{len(plan.released)} model(s) would be taken from {models}, and count as done here")
    elif models is not None:
        with own_folder(plan.out):
            on_notice(f"{take_models(models, plan)} model(s) are taken from {models}")
    pieces = choose_pieces(plan, parts, rows)
    on_budget(plan.budget())
    for name, missing in {**plan.left_out, **plan.without_weights()}.items():
        given = " ".join(f"--data {each}=PATH" for each in missing)
        on_notice(f"left out for want of data: {name} ({given})")
    if not force:
        _require_budget(plan)
    if dry_run:
        return None
    with own_folder(plan.out):
        try:
            outcome = run_pieces(
                plan, pieces, minutes=minutes, busy=busy_file(), on_notice=on_notice, parallel=parallel
            )
        except KeyboardInterrupt:
            on_notice("stopped: writing the page of what is complete; run the same command again to resume")
            write_results(plan, page, command, origin, on_notice)
            raise
        table, page_file, table_file = write_results(plan, page, command, origin, on_notice)
    hours_left = sum(each.hours_left for each in plan.budget())
    return StudyResults(page=page_file, table_file=table_file, table=table, outcome=outcome, hours_left=hours_left)


def _require_budget(plan: StudyPlan) -> None:
    """Refuse studies that would take longer than their budget, what was spent included.

    Raises:
        UsageError: one does.
    """
    for file in plan.files:
        rows = [row for row in plan.rows if row.file is file]
        budget = replace(plan, files=[file], rows=rows).budget()
        hours = sum(each.hours_spent + each.hours_left for each in budget)
        if hours > file.study.budget_hours:
            raise UsageError(
                f"{file.name} would take {hours:.1f} hours, and its budget_hours are {file.study.budget_hours:g}: "
                "make it smaller, or use --force"
            )


def write_results(
    plan: StudyPlan,
    page: str | None,
    command: str,
    origin: str | None = None,
    on_notice: Callable[[str], None] = lambda text: None,
) -> tuple[pa.Table, Path, Path]:
    """Write table, plots, models, indices and page of what is complete; return the table, its page, and its file."""
    page_file = plan.out / "results.md" if page is None else Path(page).absolute()
    make_folder(page_file.parent)
    table_file = page_file.with_suffix(".parquet")
    table = measure_studies(plan, on_notice)
    with suppress(FileNotFoundError, FormatError, OutputError):  # no page was there, or another file to overwrite
        for row, models in _lost_models(read_table(table_file, "results"), table).items():
            on_notice(f"{row}: {models} models of the page that was there are not complete in {plan.out}")
    write_table(table, table_file, "results", origin)
    write_page(table, plan.files, page_file, command)
    folder = make_folder(page_file.parent / page_file.stem)
    write_table(released_models(plan), folder / MODELS_FILE, MODELS_KIND)
    for name, index in released_indices(plan).items():
        with replacing(folder / f"{name}.parquet") as aside:
            pq.write_table(index, aside, compression="zstd")
    return table, page_file, table_file


def _lost_models(before: pa.Table, after: pa.Table) -> dict[str, int]:
    """Return row → how many more complete models a table of results had before, where it had more."""
    counts: list[dict[str, float]] = []
    for table in (before, after):
        facts = (line for line in table.to_pylist() if (line["measure"], line["metric"]) == (FACT, "models"))
        counts.append({f"{f['study']}/{f['part']}/{f['row']} {f['condition']}".strip(): f["value"] for f in facts})
    had, has = counts
    return {row: round(count - has.get(row, 0)) for row, count in had.items() if count > has.get(row, 0)}


def write_page(table: pa.Table, files: Sequence[StudyFile], page_file: Path, command: str) -> None:
    """Write the page of a table, and its plots beside it in images/ and the page's name."""
    images = f"images/{page_file.stem}"
    for file in files:
        draw_plots(Results(table, file), page_file.parent / images)
    table_name = page_file.with_suffix(".parquet").name
    models = f"{page_file.stem}/{MODELS_FILE}"
    text = render_page(table, files, table_file=table_name, models_file=models, images=images, command=command)
    with replacing(page_file) as aside:
        aside.write_text(text, encoding="utf-8")


def released_indices(plan: StudyPlan) -> dict[str, pa.Table]:
    """Return data set → its index with the folds of every division of a part by folds."""
    indices = {}
    for name, data in plan.data.items():
        folds = {}
        for file in plan.files:
            for part_name, part in file.study.parts.items():
                if part.kind != "folds" or part.data != name:
                    continue
                config = file.config_of(part, next(iter(part.rows.values())))
                for repeat in range(1, max(map(part.repeats_of, part.rows.values())) + 1):
                    numbered = number_folds(
                        data.manifest, config.split, folds=part.folds, fold_by=part.fold_by, repeat=repeat
                    )
                    folds[f"{file.name}_{part_name}_fold_{repeat}"] = numbered.select(["sample_id", "fold"])
        indices[name] = released_index(data, folds, hide_ids=plan.hides_ids(name))
    return indices


def require_success(outcome: Outcome) -> None:
    """Raise an error if a model failed.

    Raises:
        BrainscaleError: one did; the message names the first.
    """
    if outcome.failures:
        title, reason = next(iter(outcome.failures.items()))
        raise BrainscaleError(f"{len(outcome.failures)} model(s) failed, the first of them {title}: {reason}")
