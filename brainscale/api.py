"""The Python API: what `import brainscale` offers.

Each function imports what it needs when it is called, opens a Ray session of its own where it needs one and none is
connected, and returns Arrow tables or frozen results.
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
    from brainscale.evaluation.cross_validation import CrossValidation
    from brainscale.evaluation.results import Evaluation
    from brainscale.models.bundle import Bundle
    from brainscale.models.engines import Engine
    from brainscale.reading.reader import Sample
    from brainscale.scoring.result import Scores
    from brainscale.training.run_folder import Run

Place = str | os.PathLike[str]
Notice = Callable[[str], None]


def index(
    sources: Place | Sequence[Place],
    *,
    config: Place | None = None,
    overrides: Iterable[str] = (),
    labels: Place = "folder",
    patient_key: Place | None = None,
    hash_paths: bool = False,
) -> "pa.Table":
    """Read every file of the sources and list its samples, with labels, hashes, groups and errors.

    Args:
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses such as s3://bucket/scans.
        config: name of a configuration, or path of a YAML file, for its class map, preprocessing and limits.
        overrides: `section.key=value` texts.
        labels: `folder`, or a CSV file with columns sample_id, label and perhaps patient.
        patient_key: file with the key of the hashes that stand for patients; a random key without.
        hash_paths: whether the names of files are hashed too; such a manifest cannot be trained on.

    Returns:
        The manifest, a table of schema MANIFEST sorted by sample_id.

    Raises:
        BrainscaleError: a source, the configuration, the labels or the key cannot be used.
    """
    from brainscale.dataset.indexer import index_sources
    from brainscale.reading.pseudonyms import read_key

    settings = load_config(config, overrides)
    label_file = str(labels) if labels == "folder" else _absolute(labels)
    key = read_key(None if patient_key is None else os.fspath(patient_key))
    with session():
        return index_sources(_places(sources), settings, label_file, key=key, hash_paths=hash_paths)


def split(
    manifest: "pa.Table | Place",
    *,
    val: float = 0.15,
    test: float = 0.2,
    folds: int | None = None,
    seed: int = 0,
    keep: "pa.Table | Place | None" = None,
) -> "pa.Table":
    """Assign samples to train, val and test, or to folds; a group is never cut.

    Args:
        manifest: a manifest.
        val: fraction for validation (model selection).
        test: fraction for the final test.
        folds: number of folds, in place of val and test.
        seed: seed of the assignment.
        keep: an earlier split of some of the samples, which is kept.

    Returns:
        The manifest with its column `split`, or `fold`, filled.

    Raises:
        ManifestError: no labels, or too few groups of a class.
        UsageError: val and test leave nothing to train on.
    """
    from brainscale.dataset.splits import assign_folds, assign_splits, map_content_to_split
    from brainscale.errors import UsageError

    table = _manifest(manifest)
    if folds is not None:
        return assign_folds(table, folds=folds, seed=seed)
    if val <= 0 or test < 0 or val + test >= 1:
        raise UsageError(
            f"val={val:g} and test={test:g} leave nothing to train on: their sum must be below 1, val above 0"
        )
    kept = None if keep is None else map_content_to_split(_manifest(keep))
    return assign_splits(table, val=val, test=test, seed=seed, keep=kept)


def summary(manifest: "pa.Table | Place") -> "ManifestSummary":
    """Count the samples, errors, labels, duplicates and splits of a manifest."""
    from brainscale.dataset.summary import summarise

    return summarise(_manifest(manifest))


def overlap(training: "pa.Table | Place", external: "pa.Table | Place", *, distance: int = 4) -> "pa.Table":
    """List the samples of an external manifest that a training manifest holds too, exactly or nearly.

    Args:
        training: a manifest.
        external: another manifest.
        distance: bits within which two perceptual hashes are near duplicates.

    Returns:
        One row for each such sample of `external`, with the kind of the match.
    """
    from brainscale.dataset.overlap import find_overlap

    return find_overlap(_manifest(training), _manifest(external), distance)


def train(
    data: "pa.Table | Place",
    out: Place,
    *,
    config: Place | None = None,
    overrides: Iterable[str] = (),
    model: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    on_epoch: Callable[[Any], None] = lambda epoch: None,
    on_notice: Notice = lambda text: None,
) -> "Run":
    """Train a model, or resume the run in `out`.

    Args:
        data: a manifest, or a source to index and split.
        out: the run's folder, a path or an address.
        config: name of a configuration, or path of a YAML file.
        overrides: `section.key=value` texts.
        model: name of the network.
        epochs: maximum number of epochs.
        seed: random seed.
        workers: number of data-parallel workers; the result does not depend on it.
        device: auto, cpu or cuda.
        on_epoch: called with a row of schema HISTORY as each epoch ends.
        on_notice: called with notes for a person.

    Raises:
        BrainscaleError: the data cannot be trained on, `out` holds another run, or training failed.
    """
    from brainscale.training.driver import train_model

    settings = load_config(config, [*_training_overrides(model, epochs, seed, workers, device), *overrides])
    with _training_session(settings):
        return train_model(_data(data), _absolute(out), settings, on_epoch, on_notice)


def cross_validate(
    data: "pa.Table | Place",
    out: Place,
    *,
    folds: int = 5,
    repeats: int = 1,
    at_once: int | None = None,
    config: Place | None = None,
    overrides: Iterable[str] = (),
    model: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    on_notice: Notice = lambda text: None,
) -> "CrossValidation":
    """Train and evaluate a model for each fold, or resume the cross-validation in `out`.

    Args:
        data: a manifest, or a source to index.
        out: folder of all runs, a path or an address.
        folds: number of folds, 3 or more; each is the test split once.
        repeats: how many times the folds are assigned anew.
        at_once: number of folds that train side by side; without it, as many as there is room for.
        config: name of a configuration, or path of a YAML file.
        overrides: `section.key=value` texts.
        model: name of the network.
        epochs: maximum number of epochs.
        seed: random seed.
        workers: number of data-parallel workers of each run.
        device: auto, cpu or cuda.
        on_notice: called with notes for a person.

    Raises:
        BrainscaleError: the data cannot be folded or trained on, or `out` holds another cross-validation.
    """
    from brainscale.evaluation import cross_validation

    settings = load_config(config, [*_training_overrides(model, epochs, seed, workers, device), *overrides])
    with _training_session(settings):
        return cross_validation.cross_validate(
            _data(data), _absolute(out), settings, folds=folds, repeats=repeats, at_once=at_once, on_notice=on_notice
        )


def evaluate(
    model: "Run | Place",
    *,
    data: "pa.Table | Place | None" = None,
    split: str | None = None,
    out: Place | None = None,
    by: Sequence[str] = (),
    prevalence: float | None = None,
    engine: str = "auto",
    workers: int | None = None,
    on_notice: Notice = lambda text: None,
) -> "Evaluation":
    """Evaluate a model on labelled samples: metrics with intervals, predictions, plots and a report.

    Args:
        model: a run, or a folder of a run or model.
        data: a manifest or a source; without it, the run's own manifest.
        split: train, val, test or all; without it, test where there is one.
        out: folder to write to; without it, a folder of the run.
        by: columns of the manifest whose subgroups get metrics of their own.
        prevalence: share of tumours where the model will be used.
        engine: auto, onnx or torch.
        workers: maximum number of engines side by side.
        on_notice: called with notes for a person.

    Raises:
        BrainscaleError: no model, no such split or column, or no labels that the model knows.
    """
    from brainscale.evaluation.evaluator import evaluate_model

    with session(workers):
        return evaluate_model(
            _model_place(model),
            None if out is None else _absolute(out),
            data=None if data is None else _data(data),
            split=split,
            engine=engine,
            workers=workers,
            prevalence=prevalence,
            by=by,
            on_notice=on_notice,
        )


def compare(runs: "Sequence[Run | Place]") -> "Comparison":
    """Compare runs by their evaluations on the test split, which are made first where there are none.

    Raises:
        BrainscaleError: a folder is neither a run nor an evaluation, or it cannot be evaluated.
    """
    from contextlib import ExitStack

    from brainscale.evaluation import comparison
    from brainscale.storage.workspace import fetch

    with ExitStack() as stack:
        folders = [str(stack.enter_context(fetch(_model_place(run), *comparison.READ, push=True))) for run in runs]
        if not comparison.all_evaluated(folders):
            stack.enter_context(session())
        return comparison.compare_runs(folders)


def score(
    model: "Run | Place",
    sources: Place | Sequence[Place],
    out: Place,
    *,
    engine: str = "auto",
    workers: int | None = None,
    threshold: float | None = None,
    precision: str = "fp32",
    by: str | None = None,
    update: bool = False,
    patient_key: Place | None = None,
    heatmaps: Place | None = None,
    top: int = 20,
    on_notice: Notice = lambda text: None,
) -> "Scores":
    """Score every sample of the sources into Parquet parts, or resume the job in `out`.

    Args:
        model: a run, or a folder of a run or model.
        sources: folders, files, globs, lists of files (`@files.txt`) or addresses; or one manifest.
        out: folder of the parts, a path or an address.
        engine: auto, onnx or torch.
        workers: maximum number of engines side by side.
        threshold: operating threshold in place of the model's own.
        precision: fp32 or bf16.
        by: `scan` for a second table, one row for each series or volume.
        update: whether a complete folder takes in files that are new in the sources.
        patient_key: file with the key of the hashes that stand for series.
        heatmaps: folder for heatmaps of the most confident positives.
        top: maximum number of heatmaps.
        on_notice: called with notes for a person.

    Raises:
        BrainscaleError: no model, no files, or `out` holds other scores.
    """
    from brainscale.scoring.bulk import score_files

    with session(workers):
        return score_files(
            _model_place(model),
            _places(sources),
            _absolute(out),
            engine=engine,
            workers=workers,
            threshold=threshold,
            precision=precision,
            by=by,
            update=update,
            patient_key=None if patient_key is None else _absolute(patient_key),
            heatmaps=None if heatmaps is None else _absolute(heatmaps),
            top=top,
            on_notice=on_notice,
        )


class Model:
    """A trained model in this process; made by `load_model`, and needs no Ray.

    Attributes:
        bundle: the model's folder, with what its probabilities mean.
    """

    def __init__(self, bundle: "Bundle", engine: "Engine", weights: bytes) -> None:
        self.bundle, self._engine, self._weights = bundle, engine, weights

    def __repr__(self) -> str:
        info = self.bundle.info
        return f"Model({info.architecture}, classes={list(info.classes)}, image_size={info.preprocess.image_size})"

    def predict(self, sources: Place | Sequence[Place]) -> "pa.Table":
        """Score every sample of the sources.

        Args:
            sources: as for `score`.

        Returns:
            Rows of schema PREDICTIONS, as `score` writes them; a sample that cannot be read is a row with an error.

        Raises:
            SourceError: a source does not exist or holds no file.
        """
        import pyarrow as pa

        from brainscale.reading.pseudonyms import read_key
        from brainscale.reading.reader import file_table, read_tables
        from brainscale.reading.request import ReadRequest
        from brainscale.reading.sources import list_files
        from brainscale.schema import PREDICTIONS
        from brainscale.scoring.predictions import score_rows

        info = self.bundle.info
        request = ReadRequest(preprocess=info.preprocess, key=read_key(None).secret)
        tables = [
            score_rows(rows, self._engine, info, info.threshold).select(PREDICTIONS.names)
            for rows in read_tables(file_table(list_files(_places(sources))), request=request)
        ]
        return pa.concat_tables(tables)

    def probabilities(self, planes: "np.ndarray") -> "np.ndarray":
        """Return the probability of each class.

        Args:
            planes: uint8 [N, S, S] or [S, S], as `read` gives them for this model's preprocessing.

        Returns:
            float32 [N, classes], in the order of the model's classes.

        Raises:
            UsageError: planes of another type or shape.
        """
        from brainscale.stats.decisions import apply_temperature

        return apply_temperature(self._engine(self._checked(planes)), self.bundle.info.temperature)

    def heatmap(self, planes: "np.ndarray") -> "np.ndarray":
        """Return where the evidence for a tumour lies.

        Args:
            planes: uint8 [N, S, S] or [S, S].

        Returns:
            float32 [N, S, S] in 0..1; all 0 where nothing speaks for a tumour.

        Raises:
            UsageError: planes of another type or shape.
        """
        import numpy as np

        from brainscale.models.heatmaps import heatmap_batches

        checked = self._checked(planes)
        batches = heatmap_batches(self.bundle.info, self._weights, checked)
        return np.concatenate([np.empty((0, *checked.shape[1:]), np.float32), *batches])

    def _checked(self, planes: "np.ndarray") -> "np.ndarray":
        import numpy as np

        from brainscale.errors import UsageError

        side = self.bundle.info.preprocess.image_size
        array = np.asarray(planes)
        array = array[None] if array.ndim == 2 else array
        if array.dtype != np.uint8 or array.shape[1:] != (side, side):
            raise UsageError(
                f"planes must be uint8 [N, {side}, {side}], not {array.dtype} {list(array.shape)}: "
                "read them with the model's own preprocessing"
            )
        return array


def load_model(model: "Run | Place", *, engine: str = "auto", threads: int | None = None) -> Model:
    """Load a trained model into this process, without Ray.

    Args:
        model: a run, or a folder of a run or model, a path or an address.
        engine: auto (ONNX Runtime), onnx or torch.
        threads: number of CPU threads; without it, all CPUs.

    Raises:
        BundleError: no model, or its files do not belong together.
        UsageError: no such engine.
    """
    from brainscale.models.bundle import FILES, open_bundle
    from brainscale.models.engines import EngineOptions, load_engine, network_of, resolve_engine
    from brainscale.storage.workspace import fetch

    options = resolve_engine(EngineOptions(name=engine), gpus=0)
    with fetch(_model_place(model), *FILES) as folder:
        bundle = open_bundle(folder)
        network, weights = network_of(bundle, options), bundle.weights.read_bytes()
    return Model(bundle, load_engine(bundle.info, network, options, threads=threads or os.cpu_count() or 1), weights)


def read(
    source: Place | Sequence[Place], *, config: Place | None = "brainmrnet", overrides: Iterable[str] = ()
) -> "Iterator[Sample]":
    """Read every sample of a source, one after the other, without Ray.

    Args:
        source: folders, files, globs, lists of files (`@files.txt`) or addresses.
        config: name of a configuration, or path of a YAML file, for its preprocessing and limits.
        overrides: `section.key=value` texts, such as `data.image_size=96`.

    Returns:
        An iterator of samples with sample_id, plane (uint8 [S, S], or None for a sample in error), empty, error_code,
        error and more. A file that cannot be read is a sample with an error.

    Raises:
        SourceError: a source does not exist or holds no file.
        UsageError: the configuration is wrong.
    """
    from brainscale.reading.pseudonyms import read_key
    from brainscale.reading.reader import read_samples
    from brainscale.reading.request import ReadRequest

    settings = load_config(config, overrides)
    key = read_key(None).secret
    request = ReadRequest(preprocess=settings.data.preprocess, limits=settings.limits, hashes=True, key=key)
    return read_samples(_places(source), request)


def load_config(config: Place | None = None, overrides: Iterable[str] = ()) -> "Config":
    """Return a configuration.

    Args:
        config: name of a configuration in configs/, path of a YAML file, or None for the defaults.
        overrides: `section.key=value` texts; the value is read as YAML.

    Raises:
        UsageError: no such configuration, or a wrong key or value.
    """
    from brainscale.config import files

    return files.load_config(None if config is None else os.fspath(config), overrides)


def load_manifest(path: Place) -> "pa.Table":
    """Read a manifest.

    Args:
        path: a path or an address.

    Raises:
        ManifestError: no such file, or not a manifest.
    """
    from brainscale.dataset.manifest import read_manifest

    return read_manifest(os.fspath(path))


def session(workers: int | None = None, object_store_gib: float | None = None) -> AbstractContextManager[None]:
    """Return a with-block with a Ray session: the one that is connected, or else a new one on this machine.

    Functions of this module open one by themselves; around several calls, one session saves its start.

    Args:
        workers: number of workers that the work will ask for.
        object_store_gib: memory of a new Ray's object store, GiB.
    """
    from brainscale.cluster import session as ray_session

    return ray_session.session(workers, object_store_gib)


def _training_session(settings: "Config") -> AbstractContextManager[None]:
    resources = settings.resources
    return session(None if resources.workers == "auto" else resources.workers, resources.object_store_gib)


def _training_overrides(
    model: str | None, epochs: int | None, seed: int | None, workers: int | None, device: str | None
) -> list[str]:
    named = {
        "model.name": model,
        "train.epochs": epochs,
        "train.seed": seed,
        "resources.workers": workers,
        "resources.device": device,
    }
    return [f"{key}={value}" for key, value in named.items() if value is not None]


def _absolute(place: Place) -> str:
    from brainscale.storage.remote import absolute

    return absolute(os.fspath(place))


def _places(sources: Place | Sequence[Place]) -> list[str]:
    several = [sources] if isinstance(sources, str | os.PathLike) else sources
    return [_absolute(source) for source in several]


def _data(data: "pa.Table | Place") -> "pa.Table | str":
    return _absolute(data) if isinstance(data, str | os.PathLike) else data


def _manifest(manifest: "pa.Table | Place") -> "pa.Table":
    from brainscale.dataset.manifest import check_manifest

    if isinstance(manifest, str | os.PathLike):
        return load_manifest(manifest)
    return check_manifest(manifest, "the manifest")


def _model_place(model: "Run | Place") -> str:
    return _absolute(model if isinstance(model, str | os.PathLike) else model.path)
