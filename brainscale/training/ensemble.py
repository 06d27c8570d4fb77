"""Make one model of several: a bundle that averages the probabilities of its members."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from safetensors.torch import load_file

from brainscale.config.sections import OperatingConfig
from brainscale.dataset.manifest import MANIFEST_FILE, count_values, manifest_fingerprint, write_manifest
from brainscale.dataset.patients import describe_unknown_patients
from brainscale.dataset.union import unite_manifests
from brainscale.hashing import fingerprint
from brainscale.models.bundle import (
    BUNDLE_FILES,
    MODEL_JSON,
    NOVELTY,
    ONNX,
    WEIGHTS,
    Bundle,
    Member,
    open_bundle,
    write_model_info,
)
from brainscale.models.ensemble import MEMBER
from brainscale.models.model_card import ModelFacts, write_model_card
from brainscale.models.network_spec import ENSEMBLE, NetworkSpec
from brainscale.models.onnx_export import export_onnx
from brainscale.models.shipped import locate_model
from brainscale.storage.local import read_success, write_success
from brainscale.storage.remote import split_options
from brainscale.storage.workspace import fetch, open_workspace
from brainscale.training.arguments import ENSEMBLE_FILES, require_members, require_same_members
from brainscale.training.checkpoints import write_tensors
from brainscale.training.environment import read_library_versions
from brainscale.training.operating_point import (
    choose_operating_points,
    describe_operating_points,
    fixed_operating_points,
    needs_validation,
)
from brainscale.training.run_folder import RunFolder, run_of

FIXED = OperatingConfig()
"""The operating point of members that agree on none: a threshold of 0.5."""


@dataclass(frozen=True, kw_only=True)
class EnsembleModel:
    """A model that averages the probabilities of others.

    Attributes:
        path: path or address of its folder.
        members: names of the runs or models that it consists of, in the order of their weights.
        samples: split → number of samples, over the training manifests of all members; empty where one is unknown.
        parameters: number of parameters of all members.
        threshold: probability of a tumour from which on a sample is predicted to be one.
        threshold_source: how the threshold was chosen.
        novelty_source: what novelty rests on, or why there is none.
        weights_sha256: hash of the weights.
        model_sha256: hash of the model.
    """

    path: str
    members: Sequence[str]
    samples: dict[str, int]
    parameters: int
    threshold: float
    threshold_source: str
    novelty_source: str
    weights_sha256: str
    model_sha256: str

    def facts(self) -> dict[str, Any]:
        """Return the contents of `_SUCCESS.json` and of `ensemble --json`."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A model that becomes a member.

    Attributes:
        name: name of the folder that was given.
        bundle: the model.
        run: its run; None where the run is not at hand.
        manifest: its training manifest; None where it is not at hand.
    """

    name: str
    bundle: Bundle
    run: RunFolder | None
    manifest: pa.Table | None

    @property
    def member(self) -> Member:
        """What the ensemble's model.json says of it."""
        info = self.bundle.info
        same = ("architecture", "views", "temperature", "model_sha256", "weights_sha256", "manifest_sha256")
        return Member(
            **{name: getattr(info, name) for name in (*same, "config_sha256", "seed", "epoch")}, run=self.name
        )


def make_ensemble(
    models: Sequence[str], out: str, on_notice: Callable[[str], None] = lambda text: None
) -> EnsembleModel:
    """Write a model that averages the probabilities of others with equal weights.

    Operating points are chosen on the validation split where all members have the same one; else the
    threshold is 0.5. Novelty is that of the first member.

    Args:
        models: run folders or model folders, or names of models that come with brainscale; their order does not matter.
        out: path or address of the folder to write.
        on_notice: called with each message for the user.

    Raises:
        UsageError: a model is named twice, or is an ensemble itself.
        BundleError: a folder holds no model, or the models differ in classes or preprocessing.
        OutputError: `out` holds something else.
    """
    with ExitStack() as stack:
        fetched = [stack.enter_context(fetch(locate_model(model), *BUNDLE_FILES, MANIFEST_FILE)) for model in models]
        sources = [_open(model, folder) for model, folder in zip(models, fetched, strict=True)]
        sources = _check(sources)
        workspace = stack.enter_context(open_workspace(out, ENSEMBLE_FILES, own_files=(), what="ensemble"))
        if (finished := _read_finished(workspace.path, sources, str(workspace))) is not None:
            on_notice(f"{out} was already complete: nothing to do")
            return finished
        return _write(workspace.path, sources, str(workspace), on_notice)


def _open(model: str, folder: Path) -> _Source:
    bundle = open_bundle(folder)
    run = run_of(bundle)
    manifest = None if run is None else run.manifest()
    if manifest is not None and manifest_fingerprint(manifest) != bundle.info.manifest_sha256:
        run = manifest = None  # the model was copied into another run's folder
    name = PurePosixPath(split_options(model)[0]).name if run is None else run.path.absolute().name
    return _Source(name=name, bundle=bundle, run=run, manifest=manifest)


def _check(sources: Sequence[_Source]) -> list[_Source]:
    """Return the models in the order of their weights, so that the order in which they were named changes nothing."""
    require_members([(source.name, source.bundle.info) for source in sources])
    return sorted(sources, key=lambda source: (source.member.weights_sha256, source.member.model_sha256))


def _read_finished(folder: Path, sources: Sequence[_Source], path: str) -> EnsembleModel | None:
    """Return the ensemble of the same members that a folder holds, or None for a new or unfinished one.

    Raises:
        OutputError: the folder holds another model.
    """
    if not (folder / MODEL_JSON).is_file():
        return None
    require_same_members(folder, path, [source.member.model_sha256 for source in sources])
    facts = read_success(folder)
    if facts is None:
        return None
    return EnsembleModel(path=path, **{each.name: facts[each.name] for each in fields(EnsembleModel)[1:]})


def _write(folder: Path, sources: Sequence[_Source], path: str, on_notice: Callable[[str], None]) -> EnsembleModel:
    members = [source.member for source in sources]
    first = sources[0].bundle
    weights = {
        f"{MEMBER}.{number}.{name}": tensor
        for number, source in enumerate(sources)
        for name, tensor in load_file(source.bundle.weights).items()
    }
    write_tensors(folder / WEIGHTS, weights)
    spec = NetworkSpec(architecture=ENSEMBLE, members=tuple(member.network for member in members))
    export_onnx(spec, len(first.info.classes), first.info.preprocess.image_size, weights, folder / ONNX)
    if first.info.novelty_sha256 is not None:
        shutil.copyfile(first.folder / NOVELTY, folder / NOVELTY)
    manifest = _unite(sources)
    if manifest is not None:
        write_manifest(manifest, folder / MANIFEST_FILE)
    hashes = [member.manifest_sha256 for member in members]
    facts = {
        "architecture": ENSEMBLE,
        "members": [member.model_dump() for member in members],
        "classes": first.info.classes,
        "preprocess": first.info.preprocess,
        "parameters": sum(source.bundle.info.parameters for source in sources),
        "novelty_source": f"{first.info.novelty_source} (of the first member, {sources[0].name})",
        "manifest_sha256": fingerprint(hashes) if manifest is None else manifest_fingerprint(manifest),
        "config_sha256": fingerprint([member.config_sha256 for member in members]),
        "seed": None,
        "epoch": None,
        "epoch_source": "that of each member",
        "versions": read_library_versions(),
    }
    config, reason = _shared_choice(sources)
    chosen = fixed_operating_points(config)
    if reason:
        slices = chosen.operating_points["slice"].model_copy(update={"threshold_source": reason})
        info = write_model_info(folder, facts | vars(chosen) | {"operating_points": {"slice": slices}})
        on_notice(f"Note: the threshold of {info.threshold:g} is {reason}.")
    else:
        info = write_model_info(folder, facts | vars(chosen))
    if not reason and manifest is not None and needs_validation(config, manifest):
        chosen = choose_operating_points(config, open_bundle(folder), manifest)
        info = write_model_info(folder, facts | vars(chosen))
        for text in describe_operating_points(chosen):
            on_notice(text)
    samples = {} if manifest is None else count_values(manifest, "split", drop_null=True)
    made = EnsembleModel(
        path=path,
        members=[source.name for source in sources],
        samples=samples,
        parameters=info.parameters,
        threshold=info.threshold,
        threshold_source=info.threshold_source,
        novelty_source=info.novelty_source,
        weights_sha256=info.weights_sha256,
        model_sha256=info.model_sha256,
    )
    unknown_patients = None if manifest is None else describe_unknown_patients(manifest)
    training = {f"{split} samples of all members": count for split, count in samples.items()}
    write_model_card(folder, ModelFacts(info=info, training=training, unknown_patients=unknown_patients))
    write_success(folder, made.facts(), "ensemble")
    return made


def _unite(sources: Sequence[_Source]) -> pa.Table | None:
    """Return the union of the training manifests, or None where one is not at hand."""
    manifests = [source.manifest for source in sources if source.manifest is not None]
    return unite_manifests(manifests) if len(manifests) == len(sources) else None


def _shared_choice(sources: Sequence[_Source]) -> tuple[OperatingConfig, str]:
    """Return how all members choose their operating points, or the default and why they share none."""
    unknown = [source.name for source in sources if source.run is None]
    if unknown:
        return FIXED, f"fixed, as the validation split of {unknown[0]} is not known"
    if len({source.member.manifest_sha256 for source in sources}) > 1:
        return FIXED, "fixed, as the members have different validation splits"
    configs = [source.run.config().operating for source in sources if source.run is not None]
    if any(config != configs[0] for config in configs):
        return FIXED, "fixed, as the members choose their thresholds in different ways"
    return configs[0], ""
