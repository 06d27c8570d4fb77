"""The Python API, as `import brainscale` offers it.

Each function imports what it needs when it is called. A function that needs Ray opens a session of its own if none is
connected. Results are Arrow tables or frozen dataclasses.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from brainscale.config.sections import Config
    from brainscale.dataset.summary import ManifestSummary
    from brainscale.evaluation.comparison import Comparison
    from brainscale.evaluation.cross_validation_result import CrossValidation
    from brainscale.evaluation.results import Evaluation
    from brainscale.models.bundle import Bundle
    from brainscale.models.engines import Engine, Precision
    from brainscale.reading.sample import Sample
    from brainscale.scoring.direct import ScoredRows
    from brainscale.scoring.result import Scores
    from brainscale.training.ensemble import EnsembleModel
    from brainscale.training.run_folder import Run

Location = str | os.PathLike[str]
"""A path, or an address such as s3://bucket/folder."""
OnNotice = Callable[[str], None]


def index(
    sources: Location | Sequence[Location],
    *,
    config: Location | None = None,
    overrides: Iterable[str] = (),
    labels: Location = "folder",
    id_column: str | None = None,
    label_column: str | None = None,
    patient_column: str | None = None,
    patient_from: str | None = None,
    patient_key: Location | None = None,
    hash_paths: bool = False,
    pairs: Location | None = None,
    audit: Location | None = None,
    audit_run: Location | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    on_notice: OnNotice = lambda text: None,
) -> "pa.Table":
    """Read every file of the sources and return the manifest: samples with labels, hashes, groups and errors.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses such as s3://bucket/scans.
        config: name of a configuration or path of a YAML file, for class names, preprocessing and limits.
        overrides: changes of the configuration, such as `data.image_size=96`.
        labels: `folder`, or a CSV file with the columns sample_id, label and, if known, patient; its other columns are
            added to the manifest.
        id_column: column of the CSV file with the samples, if it is not `sample_id`.
        label_column: its column with the labels, if it is not `label`.
        patient_column: its column with the patients, if it is not `patient`; patients are hashed.
        patient_from: regular expression over sample ids; its group `patient`, or its first group, names the patient.
        patient_key: file with the secret key for the hashes of patients; by default the key in the environment, or a
            random key.
        hash_paths: whether to hash the names of files too; such a manifest cannot be used for training.
        pairs: page to write with the pictures of near duplicates, worst first.
        audit: page to write with the pictures of doubtful labels and unusual images.
        audit_run: run, evaluation or cross-validation whose wrong predictions are shown on the latter.
        overwrite: whether these pages may replace files that another call made.
        workers: maximum number of Ray tasks that read at the same time. By default, a small source is read without Ray
            if none is connected, and Ray runs as many tasks as it has CPUs.
        on_notice: called with each message for the user, such as the number of samples without a known patient.

    Returns:
        A table of schema MANIFEST, sorted by sample_id, and the other columns of the CSV file.

    Raises:
        BrainscaleError: a source, the configuration, the labels or the key cannot be used, or a page cannot be written.
    """
    from brainscale.dataset.from_sources import index_sources
    from brainscale.dataset.label_file import LabelColumns
    from brainscale.dataset.on_ray import open_map
    from brainscale.dataset.outputs import describe_index
    from brainscale.dataset.pages.request import PageRequest
    from brainscale.dataset.subject_names import compile_patient_pattern
    from brainscale.dataset.summary import describe_gaps
    from brainscale.reading.keys import read_key

    settings = load_config(config, overrides)
    label_file = str(labels) if labels == "folder" else _absolute(labels)
    columns = LabelColumns(id=id_column, label=label_column, patient=patient_column)
    columns.require_file(label_file)
    if patient_from is not None:
        compile_patient_pattern(patient_from)
    key = read_key(None if patient_key is None else os.fspath(patient_key))
    locations = {"pairs": pairs, "audit": audit, "audit_run": audit_run}
    source_list = _list_sources(sources)
    options = {"labels": label_file, "columns": [id_column, label_column, patient_column], "patient_from": patient_from}
    origin = describe_index(source_list, settings, key, options, hash_paths=hash_paths)
    pages = PageRequest(
        origin=origin,
        overwrite=overwrite,
        **{name: None if location is None else _absolute(location) for name, location in locations.items()},
    )
    pages.check_options(hash_paths=hash_paths)
    predictions = pages.check_files()
    manifest = index_sources(
        source_list,
        settings,
        label_file,
        columns=columns,
        patient_from=patient_from,
        key=key,
        hash_paths=hash_paths,
        workers=workers,
        on_notice=on_notice,
    )
    with open_map(len(manifest)) as run:
        pages.write(manifest, settings, predictions, run)
    for text in describe_gaps(manifest, settings.data):
        on_notice(text)
    return manifest


def split(
    manifest: "pa.Table | Location",
    *,
    val: float | None = None,
    test: float | None = None,
    folds: int | None = None,
    folds_by: str | None = None,
    seed: int = 0,
    keep: "pa.Table | Location | None" = None,
) -> "pa.Table":
    """Assign samples to train, val and test, or to folds; a group always stays together.

    Args:
        manifest: a manifest, or its path or address.
        val: validation fraction (model selection), 0.15 by default.
        test: test fraction (final evaluation), 0.2 by default.
        folds: number of folds, instead of val and test.
        folds_by: column each of whose values is one fold, such as a site, instead of drawn folds.
        seed: seed of the assignment.
        keep: a manifest with an earlier split or earlier folds; its samples keep their split or fold.

    Returns:
        The manifest with the column `split` or `fold` filled.

    Raises:
        ManifestError: there are no labels, or too few groups of a class.
        UsageError: val and test leave nothing to train on.
    """
    from brainscale.dataset.folds_by_column import assign_folds_by
    from brainscale.dataset.splits import assign_folds, assign_splits
    from brainscale.errors import UsageError

    if folds_by is not None:
        if any(option is not None for option in (val, test, folds, keep)):
            raise UsageError("folds_by cannot be combined with val, test, folds or keep: remove the others")
        return assign_folds_by(_manifest(manifest), folds_by)[0]
    table, earlier = _manifest(manifest), None if keep is None else _manifest(keep)
    if folds is not None:
        if val is not None or test is not None:
            raise UsageError("folds cannot be combined with val or test: remove one of them")
        return assign_folds(table, folds=folds, seed=seed, keep=earlier)
    val, test = 0.15 if val is None else val, 0.2 if test is None else test
    if not (val > 0 and test >= 0 and val + test < 1):  # NaN fails too
        raise UsageError(
            f"val={val:g} and test={test:g} leave nothing to train on: val must be above 0, and their sum below 1"
        )
    return assign_splits(table, val=val, test=test, seed=seed, keep=earlier)


def summary(manifest: "pa.Table | Location") -> "ManifestSummary":
    """Count the samples, errors, labels, duplicates and splits of a manifest."""
    from brainscale.dataset.summary import summarise

    return summarise(_manifest(manifest))


def overlap(
    training: "pa.Table | Location", external: "pa.Table | Location", *, similarity: float | None = 0.97
) -> "pa.Table":
    """Find the samples of an external manifest that a training manifest contains too, as duplicates or near duplicates.

    Args:
        training: manifest of the training set.
        external: manifest of the external set.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.

    Returns:
        One row for each such sample of `external`, with the kind of match.
    """
    from brainscale.dataset.on_ray import open_map
    from brainscale.dataset.overlap import find_overlap

    first, second = _manifest(training), _manifest(external)
    with open_map(len(first) + len(second)) as run:
        return find_overlap(first, second, similarity, run)


def train(
    data: "pa.Table | Location",
    out: Location,
    *,
    config: Location | None = None,
    overrides: Iterable[str] = (),
    model: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    on_epoch: Callable[[Any], None] = lambda epoch: None,
    on_notice: OnNotice = lambda text: None,
) -> "Run":
    """Train a model, or resume the run in `out`.

    Args:
        data: a manifest, or a source to index and split.
        out: path or address of the run folder.
        config: name of a configuration or path of a YAML file.
        overrides: changes of the configuration, such as `train.patience=5`.
        model: name of the network.
        epochs: maximum number of epochs.
        seed: random seed.
        workers: number of data-parallel workers; the result does not depend on it.
        device: auto, cpu or cuda.
        on_epoch: called with a row of schema HISTORY at the end of each epoch.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: the data cannot be used for training, `out` holds another run, or training failed.
    """
    from brainscale.training.driver import train_model

    settings = load_config(config, [*_training_overrides(model, epochs, seed, workers, device), *overrides])
    return train_model(_data(data), _absolute(out), settings, on_epoch, on_notice)


def cross_validate(
    data: "pa.Table | Location",
    out: Location,
    *,
    folds: int | None = None,
    folds_by: str | None = None,
    repeats: int = 1,
    parallel_folds: int | None = None,
    config: Location | None = None,
    overrides: Iterable[str] = (),
    model: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    on_notice: OnNotice = lambda text: None,
) -> "CrossValidation":
    """Train and evaluate a model for each fold, or resume the cross-validation in `out`.

    Args:
        data: a manifest, or a source to index.
        out: path or address of the folder for all runs.
        folds: number of folds, 2 or more, by default 5; each fold is the test split once.
        folds_by: column each of whose values is one fold, such as a site, instead of drawn folds.
        repeats: number of repeats, each with a new assignment to folds.
        parallel_folds: number of folds to train at the same time; by default as many as the cluster has room for.
        config: name of a configuration or path of a YAML file.
        overrides: changes of the configuration, such as `train.patience=5`.
        model: name of the network.
        epochs: maximum number of epochs.
        seed: random seed.
        workers: number of data-parallel workers of each run.
        device: auto, cpu or cuda.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: the data cannot be used for training, or `out` holds another cross-validation.
    """
    from brainscale.evaluation import cross_validation

    settings = load_config(config, [*_training_overrides(model, epochs, seed, workers, device), *overrides])
    return cross_validation.cross_validate(
        _data(data),
        _absolute(out),
        settings,
        folds=5 if folds is None and folds_by is None else folds,
        folds_by=folds_by,
        repeats=repeats,
        parallel_folds=parallel_folds,
        on_notice=on_notice,
    )


def evaluate(
    model: "Run | Location",
    *,
    data: "pa.Table | Location | None" = None,
    split: str | None = None,
    out: Location | None = None,
    unit: str = "slice",
    by: Sequence[str] = (),
    match: Sequence[str] = (),
    prevalence: float | None = None,
    engine: str = "auto",
    workers: int | None = None,
    show_burned_in: bool = False,
    allow_edited: bool = False,
    overwrite: bool = False,
    on_notice: OnNotice = lambda text: None,
) -> "Evaluation":
    """Evaluate a model on labelled samples, and write metrics with intervals, predictions, plots and a report.

    An evaluation that is there already, of the same model and samples with the same options, is read and returned.

    Args:
        model: a run, a run folder or model folder, or the name of a model that comes with brainscale.
        data: a manifest or a source; by default the manifest of the run.
        split: train, val, test or all; by default test, if there is one.
        out: path or address of the output folder; by default a folder in the run folder.
        unit: what is decided on: slice, scan or patient.
        by: columns of the manifest for which to compute metrics by subgroup.
        match: columns of the manifest to match pairs of samples on, for metrics that these columns cannot explain.
        prevalence: fraction of tumours where the model will be used.
        engine: auto, onnx or torch.
        workers: maximum number of engines.
        show_burned_in: whether the report shows pictures of samples whose pixels may show text, such as a name.
        allow_edited: whether to evaluate a model whose model.json was edited; every output says so.
        overwrite: whether to replace a finished evaluation of another model or other data.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: there is no model, no such split or column, or no sample with a label of the model.
    """
    from brainscale.evaluation.repeated import find_repeated

    request: dict[str, Any] = {
        "model": _model_location(model),
        "out": None if out is None else _absolute(out),
        "data": None if data is None else _data(data),
        "split": split,
        "engine": engine,
        "workers": workers,
        "prevalence": prevalence,
        "unit": unit,
        "by": by,
        "match": match,
        "show_burned_in": show_burned_in,
        "allow_edited_model": allow_edited,
        "on_notice": on_notice,
    }
    if (repeated := find_repeated(**request)) is not None:
        return repeated
    from brainscale.evaluation.evaluator import evaluate_model

    return evaluate_model(**request, overwrite=overwrite)


def compare(
    runs: "Sequence[Run | Location]", *, unit: str = "slice", match: Sequence[str] = (), force: bool = False
) -> "Comparison":
    """Compare runs by their metrics on the test split; runs without an evaluation are evaluated first.

    Args:
        runs: runs, run folders or folders that `evaluate` wrote.
        unit: which evaluations to compare: by slice, scan or patient.
        match: columns of the manifest to match pairs of samples on: only these count, beside the columns alone.
        force: whether to compare runs that were evaluated on different samples or with different classes; the result
            says so in `not_comparable` and in a column of its tables.

    Raises:
        ManifestError: the runs were evaluated on different samples or with different classes.
        BrainscaleError: a folder is neither a run nor an evaluation, or it cannot be evaluated.
    """
    from contextlib import ExitStack

    from brainscale.evaluation import comparison
    from brainscale.storage.remote import split_options
    from brainscale.storage.workspace import fetch

    with ExitStack() as stack:
        locations = [_run_location(run) for run in runs]
        folders = [str(stack.enter_context(fetch(run, *comparison.READ, push=True))) for run in locations]
        names = [split_options(run)[0] for run in locations]
        return comparison.compare_runs(folders, unit=unit, match=match, force=force, names=names)


def ensemble(
    models: "Sequence[Run | Location]", out: Location, *, on_notice: OnNotice = lambda text: None
) -> "EnsembleModel":
    """Write a model that averages the probabilities of others with equal weights.

    The threshold is chosen on the validation split where all models share one; else it is 0.5.

    Args:
        models: runs, or run folders or model folders, with the same classes and preprocessing.
        out: path or address of the folder to write, which is a model like any other.
        on_notice: called with each message for the user.

    Raises:
        UsageError: a model is named twice, or is an ensemble itself.
        BundleError: a folder holds no model, or the models differ in classes or preprocessing.
        OutputError: `out` holds something else.
    """
    from brainscale.training.ensemble import make_ensemble

    return make_ensemble([_run_location(model) for model in models], _absolute(out), on_notice)


def score(
    model: "Run | Location",
    sources: Location | Sequence[Location],
    out: Location,
    *,
    overwrite: bool = False,
    engine: str = "auto",
    workers: int | None = None,
    threshold: float | None = None,
    precision: "Precision" = "fp32",
    unit: str | None = None,
    update: bool = False,
    prune: bool = False,
    patient_key: Location | None = None,
    hash_paths: bool = False,
    heatmaps: Location | None = None,
    max_heatmaps: int = 20,
    show_burned_in: bool = False,
    allow_edited: bool = False,
    on_notice: OnNotice = lambda text: None,
) -> "Scores":
    """Score every sample of the sources into Parquet parts or a single file, or resume the job in `out`.

    Args:
        model: a run, a run folder or model folder, or the name of a model that comes with brainscale.
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses; or one manifest.
        out: path or address of the scores folder, or of one file ending in .parquet or .csv, of a million rows at most.
        overwrite: whether to replace a file that is not of this job.
        engine: auto, onnx or torch.
        workers: maximum number of engines.
        threshold: operating threshold, instead of the model's own.
        precision: fp32, bf16 for a GPU, or int8 for a CPU, which `brainscale quantize` prepares.
        unit: scan or patient, to write a second table with one row for each.
        update: whether to score the files that are new in the sources too; rows of files that are gone stay.
        prune: whether to drop the rows of files that are gone from the sources.
        patient_key: file with the secret key for the hashes; by default the key in the environment, or with
            `hash_paths` a random key that is kept among this user's own files (`key_file` of the result).
        hash_paths: whether to hash the names of files and archive members too.
        heatmaps: folder for heatmaps of the most confident positives.
        max_heatmaps: maximum number of heatmaps.
        show_burned_in: whether to draw heatmaps of samples whose pixels may show text, such as a name.
        allow_edited: whether to score with a model whose model.json was edited; every output says so.
        on_notice: called with each message for the user.

    Raises:
        BrainscaleError: there is no model or no file, or `out` holds something else.
    """
    from brainscale.scoring.single_file import score_to

    return score_to(
        _model_location(model),
        _list_sources(sources),
        _absolute(out),
        overwrite=overwrite,
        engine=engine,
        workers=workers,
        threshold=threshold,
        precision=precision,
        unit=unit,
        update=update,
        prune=prune,
        patient_key=None if patient_key is None else _absolute(patient_key),
        hash_paths=hash_paths,
        heatmaps=None if heatmaps is None else _absolute(heatmaps),
        max_heatmaps=max_heatmaps,
        show_burned_in=show_burned_in,
        allow_edited_model=allow_edited,
        on_notice=on_notice,
    )


class Model:
    """A trained model in this process, from `load_model`; it does not need Ray.

    Attributes:
        bundle: folder and description of the model.
    """

    def __init__(self, bundle: "Bundle", engine: "Engine", weights: bytes) -> None:
        self.bundle, self._engine, self._weights = bundle, engine, weights

    def __repr__(self) -> str:
        from brainscale.models.shipped import find_shipped

        info = self.bundle.info
        edited = ", edited" if self.bundle.edited else ""
        shipped = ", for trying only" if find_shipped(self.bundle) else ""
        size = info.preprocess.image_size
        return f"Model({info.architecture}, classes={list(info.classes)}, image_size={size}{edited}{shipped})"

    def predict(self, sources: Location | Sequence[Location]) -> "pa.Table":
        """Score every sample of the sources, and return the predictions.

        Args:
            sources: folders, files, globs, lists of files (`@files.txt`) or addresses.

        Returns:
            A table of schema PREDICTIONS, as `score` writes it. A sample that cannot be read is a row with an error.

        Raises:
            SourceError: a source does not exist or contains no file.
        """
        import pyarrow as pa

        from brainscale.models.bundle import mark_edited

        rows = (rows.predictions for rows in self.score_directly(_list_sources(sources)))
        return mark_edited(pa.concat_tables(rows), self.bundle)

    def score_directly(self, sources: Sequence[str]) -> "Iterator[ScoredRows]":
        """Yield the predictions of a few samples at a time, with their planes; see `predict`."""
        from brainscale.reading.keys import read_key
        from brainscale.scoring.direct import score_sources

        info = self.bundle.info
        return score_sources(sources, self._engine, self.bundle, info.threshold, read_key(None).secret)

    def probabilities(self, planes: "np.ndarray") -> "np.ndarray":
        """Return the probability of each class.

        Args:
            planes: uint8 [N, S, S] or [S, S], as `read` returns them with the preprocessing of this model.

        Returns:
            float32 [N, classes], in the order of the model's classes.

        Raises:
            UsageError: the planes have another type or shape.
        """
        from brainscale.stats.decisions import apply_temperature

        return apply_temperature(self._engine(self._check_planes(planes)).probabilities, self.bundle.info.temperature)

    def heatmap(self, planes: "np.ndarray") -> "np.ndarray":
        """Return heatmaps of the evidence for a tumour.

        Args:
            planes: uint8 [N, S, S] or [S, S].

        Returns:
            float32 [N, S, S] in 0..1; all 0 if there is no evidence for a tumour.

        Raises:
            UsageError: the planes have another type or shape.
        """
        import numpy as np

        from brainscale.models.heatmaps import compute_heatmap_batches

        array = self._check_planes(planes)
        batches = compute_heatmap_batches(self.bundle.info, self._weights, array, self._engine)
        return np.concatenate([np.empty((0, *array.shape[1:]), np.float32), *batches])

    def _check_planes(self, planes: "np.ndarray") -> "np.ndarray":
        """Return planes as [N, S, S]; raise an error if they have another type or shape."""
        import numpy as np

        from brainscale.errors import UsageError

        side = self.bundle.info.preprocess.image_size
        array = np.asarray(planes)
        array = array[None] if array.ndim == 2 else array
        if array.dtype != np.uint8 or array.shape[1:] != (side, side):
            raise UsageError(
                f"planes must be uint8 [N, {side}, {side}], not {array.dtype} {list(array.shape)}: "
                "read them with the preprocessing of this model"
            )
        return array


def load_model(
    model: "Run | Location",
    *,
    engine: str = "auto",
    precision: "Precision" = "fp32",
    threads: int | None = None,
    allow_edited: bool = False,
) -> Model:
    """Load a trained model into this process, without Ray.

    Args:
        model: a run, path or address of a run folder or model folder, or the name of a model that comes with
            brainscale, such as `phantoms`.
        engine: auto (ONNX Runtime), onnx or torch.
        precision: fp32, bf16, or int8, which `brainscale quantize` prepares.
        threads: number of CPU threads; by default one for each CPU.
        allow_edited: whether to load a model whose model.json was edited; its text and the metadata of its predictions
            say so.

    Raises:
        BundleError: there is no model, or its files do not match their hashes.
        UsageError: there is no such engine.
    """
    from brainscale.models.bundle import BUNDLE_FILES, open_bundle
    from brainscale.models.engines import EngineOptions, load_engine, read_network, resolve_engine
    from brainscale.models.shipped import locate_model
    from brainscale.storage.workspace import fetch

    options = resolve_engine(EngineOptions(name=engine, precision=precision), gpus=0)
    with fetch(locate_model(_model_location(model)), *BUNDLE_FILES) as folder:
        bundle = open_bundle(folder, allow_edited=allow_edited)
        network, weights = read_network(bundle, options), bundle.weights.read_bytes()
    return Model(bundle, load_engine(bundle.info, network, options, threads=threads or os.cpu_count() or 1), weights)


def read(
    source: Location | Sequence[Location], *, config: Location | None = "brainmrnet", overrides: Iterable[str] = ()
) -> "Iterator[Sample]":
    """Read the samples of a source one after the other, without Ray.

    Args:
        source: folders, files, globs, lists of files (`@files.txt`) or addresses.
        config: name of a configuration or path of a YAML file, for preprocessing and limits.
        overrides: changes of the configuration, such as `data.image_size=96`.

    Returns:
        An iterator of samples with sample_id, plane (uint8 [S, S], or None for a sample with an error), empty,
        error_code, error and more. A file that cannot be read is a sample with an error.

    Raises:
        SourceError: a source does not exist or contains no file.
        UsageError: the configuration is wrong.
    """
    from brainscale.reading.keys import read_key
    from brainscale.reading.reader import read_samples
    from brainscale.reading.request import ReadRequest

    settings = load_config(config, overrides)
    key = read_key(None).secret
    request = ReadRequest(preprocess=settings.data.preprocess, limits=settings.limits, key=key)
    return read_samples(_list_sources(source), request)


def load_config(config: Location | None = None, overrides: Iterable[str] = ()) -> "Config":
    """Return a configuration.

    Args:
        config: name of a configuration in configs/, path of a YAML file, or None for the defaults.
        overrides: changes of the configuration, such as `train.epochs=3`; the value is read as YAML.

    Raises:
        UsageError: there is no such configuration, or a key or value is wrong.
    """
    from brainscale.config import files

    return files.load_config(None if config is None else os.fspath(config), overrides)


def load_manifest(path: Location) -> "pa.Table":
    """Read a manifest.

    Args:
        path: path or address of the manifest.

    Raises:
        ManifestError: there is no such file, or it is not a manifest.
    """
    from brainscale.dataset.manifest import read_manifest

    return read_manifest(os.fspath(path))


def session(workers: int | None = None, object_store_gib: float | None = None) -> AbstractContextManager[None]:
    """Return a context manager for a Ray session: the connected one, or else a new one on this machine.

    Functions of this module open a session themselves. One session around several calls starts Ray only once.

    Args:
        workers: number of workers that the calls will use.
        object_store_gib: memory for the object store of a new session, in GiB.
    """
    from brainscale.cluster import session as ray_session

    return ray_session.session(workers, object_store_gib)


def _training_overrides(
    model: str | None, epochs: int | None, seed: int | None, workers: int | None, device: str | None
) -> list[str]:
    settings = {
        "model.name": model,
        "train.epochs": epochs,
        "train.seed": seed,
        "resources.workers": workers,
        "resources.device": device,
    }
    return [f"{key}={value}" for key, value in settings.items() if value is not None]


def _absolute(location: Location) -> str:
    from brainscale.storage.remote import make_absolute

    return make_absolute(os.fspath(location))


def _list_sources(sources: Location | Sequence[Location]) -> list[str]:
    source_list = [sources] if isinstance(sources, str | os.PathLike) else sources
    return [_absolute(source) for source in source_list]


def _data(data: "pa.Table | Location") -> "pa.Table | str":
    return _absolute(data) if isinstance(data, str | os.PathLike) else data


def _manifest(manifest: "pa.Table | Location") -> "pa.Table":
    from brainscale.dataset.manifest import check_manifest

    if isinstance(manifest, str | os.PathLike):
        return load_manifest(manifest)
    return check_manifest(manifest, "the manifest")


def _model_location(model: "Run | Location") -> str:
    from brainscale.models.shipped import is_shipped_name

    return model if isinstance(model, str) and is_shipped_name(model) else _run_location(model)


def _run_location(run: "Run | Location") -> str:
    return _absolute(run if isinstance(run, str | os.PathLike) else run.path)
