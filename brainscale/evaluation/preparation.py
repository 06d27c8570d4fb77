"""Prepare an evaluation: the model, the samples, the options and the output folder, before anything is computed.

Needs no Ray, unless a large source has to be indexed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.config.sections import Config, ResourcesConfig
from brainscale.dataset.columns import replace_column, require_columns
from brainscale.dataset.from_sources import open_or_index
from brainscale.dataset.manifest import is_manifest, manifest_fingerprint, without_signatures
from brainscale.dataset.splits import SPLITS
from brainscale.errors import ManifestError, UsageError
from brainscale.evaluation.units import evaluation_name
from brainscale.models.bundle import Bundle, open_bundle
from brainscale.models.shipped import describe_model_notes, is_shipped_name
from brainscale.stats.units import Unit, require_unit
from brainscale.storage.remote import is_address, join_address, split_options
from brainscale.training.run_folder import RunFolder, run_of


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """How to evaluate: the arguments of `evaluate_model`, with the name of the data and the split that was chosen."""

    data_name: str | None
    split: str
    engine: str
    workers: int | None
    prevalence: float | None
    by: tuple[str, ...]
    match: tuple[str, ...]
    training_manifest: str
    show_burned_in: bool
    unit: Unit
    report: bool
    command: str
    on_notice: Callable[[str], None]


@dataclass(kw_only=True)
class PreparedEvaluation:
    """All that an evaluation depends on.

    Attributes:
        run: the run that the model came from, or the folder of a model without one.
        own_run: the run, if there is one.
        bundle: the model.
        manifest: all samples of the data.
        rows: those of the split.
        request: the options.
        folder: where the outputs are written: a path, or the address that was asked for.
        path: path or address of the outputs for the user.
    """

    run: RunFolder
    own_run: RunFolder | None
    bundle: Bundle
    manifest: pa.Table
    rows: pa.Table
    request: EvaluationRequest
    folder: str
    path: str

    def drop_signatures(self) -> None:
        """Drop the signatures and hashes of the samples from memory, where they are 300 bytes each."""
        is_whole = self.rows is self.manifest
        self.manifest = without_signatures(self.manifest)
        self.rows = self.manifest if is_whole else without_signatures(self.rows)


def prepare_evaluation(
    local_model: Path,
    model: str,
    out: str | None = None,
    *,
    data: str | pa.Table | None = None,
    split: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    prevalence: float | None = None,
    by: Sequence[str] = (),
    match: Sequence[str] = (),
    training_manifest: str = "auto",
    show_burned_in: bool = False,
    unit: str = "slice",
    command: str = "",
    allow_edited_model: bool = False,
    report: bool = True,
    shared: bool = False,
    on_notice: Callable[[str], None] = lambda text: None,
) -> PreparedEvaluation:
    """Open the model, read or make the manifest, choose the split, and name the output folder.

    Args:
        local_model: the folder of the model, or a local copy of what is needed of it.
        model: path or address of that folder, or the name of a model that comes with brainscale.
        out: where to write, as `evaluate_model` takes it.
        data: a manifest or a source; by default the run's own manifest.
        split: train, val, test or all; by default test where there is one, else all.
        engine: name of the engine.
        workers: maximum number of engines.
        prevalence: share of tumours where the model will be used.
        by: columns of the manifest with subgroups.
        match: columns of the manifest to match pairs of samples on.
        training_manifest: manifest that the model was trained on; auto: the run's.
        show_burned_in: whether the report shows pictures of samples with text burned in.
        unit: slice, scan or patient.
        command: the command line, for the report.
        allow_edited_model: whether the model may have been edited.
        report: whether plots and the report are written.
        shared: whether paths are on storage that every node of a cluster mounts.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: no model, or no such split, column or unit.
    """
    bundle = open_bundle(local_model, allow_edited=allow_edited_model)
    if out is None and is_shipped_name(model):
        raise UsageError(f"the model {model} is part of brainscale: say where to write the evaluation with --out")
    for text in describe_model_notes(bundle):
        on_notice(text)
    own_run = run_of(bundle)
    run = own_run or RunFolder(local_model)
    manifest = _read_manifest(run, data, split, bundle, shared, on_notice)
    split, rows = choose_rows(manifest, split)
    require_columns(rows, [*by, *match])
    request = EvaluationRequest(
        data_name=data_name(data),
        split=split,
        engine=engine,
        workers=workers,
        prevalence=prevalence,
        by=tuple(by),
        match=tuple(match),
        training_manifest=training_manifest,
        show_burned_in=show_burned_in,
        unit=require_unit(unit),
        report=report,
        command=command,
        on_notice=on_notice,
    )
    own = data is None or manifest_fingerprint(manifest) == bundle.info.manifest_sha256
    name = split if own else f"{(request.data_name or 'data').removesuffix('.parquet')}-{split}"
    name = evaluation_name(name, request.unit)
    folder = out or str(run.evaluation(name))
    path = folder if out or not is_address(model) else join_address(model, f"evaluation/{name}")
    return PreparedEvaluation(
        run=run,
        own_run=own_run,
        bundle=bundle,
        manifest=manifest,
        rows=rows,
        request=request,
        folder=folder,
        path=path,
    )


def data_name(data: str | pa.Table | None) -> str | None:
    """Return the name of the data: the last part of the path or address, without a store's options."""
    return PurePosixPath(split_options(data)[0]).name if isinstance(data, str) else None


def _read_manifest(
    run: RunFolder,
    data: str | pa.Table | None,
    split: str | None,
    bundle: Bundle,
    shared: bool,
    on_notice: Callable[[str], None],
) -> pa.Table:
    """Read or make the manifest to evaluate on."""
    if data is None:
        if not run.manifest_file.is_file():
            raise ManifestError(f"{run} has no manifest of its own: say what to evaluate on with --data")
        return run.manifest()
    config = Config(data=bundle.info.data, resources=ResourcesConfig(shared=shared))
    manifest = open_or_index(data, config, on_notice)
    if isinstance(data, pa.Table) or is_manifest(data) or not run.manifest_file.is_file():
        return manifest
    return with_splits_of_run(manifest, run.manifest(), split)


def with_splits_of_run(manifest: pa.Table, run_manifest: pa.Table, split: str | None) -> pa.Table:
    """Return an indexed source with the splits of a run, content by content.

    A source that holds other files too has them only where a split is asked for: else the few test images that an
    external set shares with the run would stand for all of it.

    Args:
        manifest: manifest of the source.
        run_manifest: manifest of the run.
        split: the split that was asked for, if any.
    """
    latest = run_manifest.select(["sha256", "frame", "split"])[::-1]  # of equal contents the last row counts
    row_of = pc.index_in(_contents(manifest), _contents(latest).combine_chunks())
    if split is None and row_of.null_count:
        return manifest
    return replace_column(manifest, "split", latest["split"].take(row_of).combine_chunks())


def _contents(manifest: pa.Table) -> pa.ChunkedArray:
    """Return a text that tells the content of each row from others: the file's sha256 and the frame."""
    parts = (pc.fill_null(manifest[name].cast(pa.string()), "") for name in ("sha256", "frame"))
    return pc.binary_join_element_wise(*parts, "#")


def choose_rows(manifest: pa.Table, split: str | None) -> tuple[str, pa.Table]:
    """Return the name of the split to evaluate, and its rows.

    Raises:
        ManifestError: no row is in that split.
    """
    available = [name for name in SPLITS if pc.any(pc.equal(manifest["split"], name)).as_py()]
    split = split or ("test" if "test" in available else "all")
    if split == "all":
        return split, manifest
    if split not in available:
        choices = " or ".join(filter(None, [", ".join(available), "all"]))
        raise ManifestError(f"no split named '{split}' in the manifest: choose {choices}")
    return split, manifest.filter(pc.equal(manifest["split"], split))
