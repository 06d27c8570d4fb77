"""Plan a training without starting it: what it reads, uses and writes, what is there already, and how long it takes.

The checks are those of the training itself, save for those that only a connected Ray can make. Nothing is written.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from brainscale.config.files import CONFIG_FILE
from brainscale.config.sections import Config
from brainscale.dataset.manifest import MANIFEST_FILE
from brainscale.errors import TrainError
from brainscale.reading.pace import MEASURING
from brainscale.storage.remote import is_address
from brainscale.storage.workspace import Workspace, fetch, open_workspace
from brainscale.training.arguments import PARAMETERS, find_finished
from brainscale.training.history import HISTORY_FILE, list_hardware, read_history
from brainscale.training.owner import OWNERS, require_unowned
from brainscale.training.planned_data import DataPlan, describe_data, list_files_to_read, plan_data
from brainscale.training.run_folder import ENVIRONMENT_FILE, RunFolder, adopt_memory_format
from brainscale.training.sampler import count_batches
from brainscale.training.workplace import Workplace, find_workplace

if TYPE_CHECKING:
    from brainscale.training.duration import Duration

LOOKED_AT = (CONFIG_FILE, ENVIRONMENT_FILE, MANIFEST_FILE, HISTORY_FILE)
"""Files of a begun run that tell what is left to do."""
FLOAT_NBYTES = 4


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, and how.

    Attributes:
        network: name of the network.
        parameters: number of its parameters, with two classes.
        weights: initial weights: random, imagenet, or the path of a file.
        image_size: width and height of a plane, in pixels.
        classes: names of the classes.
        epochs: maximum number of epochs.
        patience: epochs without progress after which training stops; None if it never stops early.
        batch_size: number of samples in a batch.
        steps: steps of an epoch; None if the samples are not known.
        seed: random seed.
    """

    network: str
    parameters: int
    weights: str
    image_size: int
    classes: tuple[str, ...]
    epochs: int
    patience: int | None
    batch_size: int
    steps: int | None
    seed: int


@dataclass(frozen=True, kw_only=True)
class OutputPlan:
    """What is written, and what is there.

    Attributes:
        run: path or address of the run folder.
        state: new; begun, by the same configuration and data; or complete.
        epochs_done: finished epochs of a begun run.
        steps_done: steps of its next epoch that its last checkpoint has.
        checkpoint_nbytes: size of the checkpoints at most, from the number of parameters.
        model_nbytes: size of the model folder, the same way.
    """

    run: str
    state: Literal["new", "begun", "complete"]
    epochs_done: int = 0
    steps_done: int = 0
    checkpoint_nbytes: int = 0
    model_nbytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What `train` would do.

    Attributes:
        data: what is read.
        recipe: what is trained.
        workplace: where; None if nothing is left.
        output: what is written.
        duration: how long it takes; None if nothing is left, or a GPU is asked for that is not on this machine.
    """

    data: DataPlan
    recipe: Recipe
    workplace: Workplace | None
    output: OutputPlan
    duration: "Duration | None"

    def to_json(self) -> dict[str, Any]:
        """Return the plan as `train --dry-run --json` prints it."""
        return asdict(self)


def plan_training(
    data: str, out: str, config: Config, on_notice: Callable[[str], None] = lambda text: None
) -> TrainingPlan:
    """Plan a training: judge its arguments as `train_model` does, without Ray, and measure this machine for seconds.

    Args:
        data: a manifest or a source, by path or address.
        out: path or address of the run folder.
        config: configuration of the run.
        on_notice: called with each message of the data's checks.

    Raises:
        BrainscaleError: `train_model` would refuse these arguments.
    """
    finished = find_finished(data, out, config, on_notice)
    if finished is not None:
        with fetch(out, MANIFEST_FILE) as folder:
            data_plan = describe_data(data, RunFolder(folder).manifest(), config)
        output = OutputPlan(run=out, state="complete", epochs_done=finished.epochs)
        recipe = describe_recipe(config, data_plan)
        return TrainingPlan(data=data_plan, recipe=recipe, workplace=None, output=output, duration=None)
    on_notice(MEASURING)
    manifest, data_plan = plan_data(data, config, on_notice)
    workplace = find_workplace(config, data_plan.count_read())
    output = plan_run(out, config, manifest, workplace)
    from brainscale.training.duration import measure_duration  # here: torch takes seconds to load

    files = list_files_to_read(data, manifest, config)
    duration = measure_duration(config, [(data_plan, output.epochs_done)], workplace, files)
    recipe = describe_recipe(config, data_plan)
    return TrainingPlan(data=data_plan, recipe=recipe, workplace=workplace, output=output, duration=duration)


def describe_recipe(config: Config, data: DataPlan) -> Recipe:
    """Return what a configuration trains on some data."""
    model, train = config.model, config.train
    sizes = train.window, train.batch_size, train.micro_batches
    return Recipe(
        network=model.name,
        parameters=PARAMETERS[model.name],
        weights=model.weights or "random",
        image_size=config.data.image_size,
        classes=tuple(config.data.classes),
        epochs=train.epochs,
        patience=train.patience if train.keep == "best" else None,
        batch_size=train.batch_size,
        steps=count_batches(data.count("train"), *sizes) if data.is_known else None,
        seed=train.seed,
    )


def plan_run(out: str, config: Config, manifest: pa.Table | None, workplace: Workplace) -> OutputPlan:
    """Return what is in a run folder that is not complete, and what will be written there.

    Args:
        out: path or address of the folder.
        config: configuration of the run.
        manifest: its manifest, if it is known.
        workplace: where it would train.

    Raises:
        BrainscaleError: the folder holds another run or other files, another command trains there, it was trained on
            other hardware, or the initial weights do not fit.
    """
    from brainscale.models.registry import check_initial_weights  # here: torch takes seconds to load
    from brainscale.training.checkpoints import KEPT, last_position

    check_initial_weights(config.model.name, len(config.data.classes), config.model.weights)
    weights = FLOAT_NBYTES * PARAMETERS[config.model.name]
    averaged = config.train.ema > 0
    sizes = {"checkpoint_nbytes": (KEPT * (3 + averaged) + KEPT) * weights, "model_nbytes": 2 * weights}
    with _look_into(out) as workspace:
        folder = RunFolder(workspace.path)
        if not folder.is_started():
            return OutputPlan(run=out, state="new", **sizes)
        require_unowned(workspace)
        folder.require_config(adopt_memory_format(config, folder.config()))
        if manifest is not None:
            folder.require_data(manifest)
        _require_hardware(workspace, config, workplace)
        names = [path.name for path in folder.checkpoints.glob("*")]
        epochs, steps = last_position(names if workspace.store is None else workspace.store.names())
    return OutputPlan(run=out, state="begun", epochs_done=epochs, steps_done=steps, **sizes)


@contextmanager
def _look_into(out: str) -> Iterator[Workspace]:
    """Yield a run folder to look at: the folder itself, or a copy of some files of one in a store."""
    if is_address(out):
        with open_workspace(out, LOOKED_AT, own_files=[f"{OWNERS}/*"], what="run") as workspace:
            yield workspace
    else:
        yield Workspace(Path(out))


def _require_hardware(run: Workspace, config: Config, workplace: Workplace) -> None:
    """Refuse to resume a run of other hardware, where it is known what would compute."""
    import torch  # here: it takes seconds to load

    from brainscale.training.environment import describe_arithmetic

    earlier = list_hardware(read_history(run.path))[-1:]
    if (
        workplace.ray == "connected"
        or workplace.device != "cpu"
        or config.resources.allow_other_hardware
        or not earlier
    ):
        return
    here = replace(describe_arithmetic(torch.device("cpu")), threads=config.train.threads).to_text()
    if earlier[0] != here:
        raise TrainError(
            f"{run} was trained on other hardware or library versions ({earlier[0]} there, {here} here): resume it "
            "there, or add --allow-other-hardware, which gives other bits and marks the run"
        )
