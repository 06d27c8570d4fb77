"""Checkpoints: save and load the weights, the optimiser and the progress of a run, to resume it at any step.

`last-0007-000120.safetensors` is the state after 7 epochs and 120 steps of the eighth. It contains the finished epochs
and the latest steps of the current epoch; the earlier steps are in the shards of the trace. `best-0005.safetensors`
contains the best weights so far; it is written before the `last-*` file that refers to it. Each file appears complete
or not at all, and nothing is pickled.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from brainscale.errors import TrainError
from brainscale.schema import STEPS
from brainscale.storage.local import make_folder, replacing
from brainscale.training.environment import Arithmetic
from brainscale.training.history import Epoch
from brainscale.training.trace import SHARD, StepRow, StepTotals

KEPT = 2
"""Number of checkpoints to keep: the latest, and the one before in case the latest is damaged."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        history: one row of schema HISTORY for each finished epoch.
        steps: rows of schema STEPS of the latest steps of the current epoch: those that are in no full shard yet.
        totals: totals of all finished steps of the current epoch.
        arithmetics: what computed the current epoch so far, in order; with the last one of the epoch before.
    """

    history: list[Epoch] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    totals: StepTotals = field(default_factory=StepTotals)
    arithmetics: list[Arithmetic] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def best(self) -> Epoch | None:
        """The epoch with the best weights so far."""
        return next((row for row in reversed(self.history) if row["best"]), None)

    @property
    def checkpoint_name(self) -> str:
        """File name of the checkpoint."""
        return f"last-{self.epoch:04d}-{self.totals.steps:06d}.safetensors"

    def add_step(self, row: StepRow) -> list[StepRow]:
        """Add a finished step; return the rows of a shard that was full before it, or an empty list."""
        shard = self.steps if len(self.steps) == SHARD else []
        if shard:
            self.steps = []
        self.steps.append(row)
        self.totals.add(row)
        return shard

    def end_epoch(self, row: Epoch) -> None:
        """Add a finished epoch, and begin the next."""
        self.history.append(row)
        self.steps, self.totals, self.arithmetics = [], StepTotals(), self.arithmetics[-1:]

    @property
    def hardware(self) -> str:
        """Return what computed the current epoch, in words."""
        return " then ".join(arithmetic.to_text() for arithmetic in self.arithmetics)

    def is_best(self, val_loss: float) -> bool:
        """Return whether a validation loss is lower than that of every finished epoch."""
        return self.best is None or val_loss < self.best["val_loss"]

    def is_out_of_patience(self, patience: int, min_gain: float) -> bool:
        """Return whether `patience` epochs have passed since the validation loss last fell by more than `min_gain`."""
        epoch, loss = 0, math.inf
        for row in self.history:
            if epoch == 0 or row["val_loss"] < loss - min_gain:
                epoch, loss = row["epoch"], row["val_loss"]
        return epoch > 0 and self.epoch - epoch >= patience


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the weights as a safetensors file, equal to `sha256sum` of the bundle's file."""
    return hashlib.sha256(save(_copy_to_cpu(weights))).hexdigest()


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    average: AveragedModel | None = None,
) -> None:
    """Write a checkpoint of the state at `progress`, then delete the checkpoints that are no longer needed.

    Args:
        folder: folder of the checkpoints.
        network: network that is trained.
        optimizer: optimiser of the network.
        progress: how far the run has come.
        average: moving average of the weights; if there is one, the best weights are its.
    """
    make_folder(folder)
    best = progress.best
    if best is not None and best["epoch"] == progress.epoch and not progress.totals.steps:
        evaluated = network if average is None else average.module
        write_tensors(folder / f"best-{progress.epoch:04d}.safetensors", evaluated.state_dict())
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"optimizer.{name}": value for name, value in _optimizer_tensors(network, optimizer).items()}
    if average is not None:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    tensors = _copy_to_cpu(tensors | {"steps": _encode_steps(progress.steps)})
    header = {
        "history": json.dumps(progress.history),
        "totals": json.dumps(asdict(progress.totals)),
        "arithmetics": json.dumps([asdict(arithmetic) for arithmetic in progress.arithmetics]),
        "sha256": _hash_tensors(tensors),
    }
    write_tensors(folder / progress.checkpoint_name, tensors, header)
    _delete_old_checkpoints(folder)


def load_latest_checkpoint(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    on_damage: Callable[[str], None] = lambda text: None,
    average: AveragedModel | None = None,
) -> Progress:
    """Load the latest readable checkpoint into network and optimiser; without any, training starts afresh.

    Args:
        folder: folder of the checkpoints.
        network: network to load the weights into.
        optimizer: optimiser of the network.
        on_damage: called with a message for each damaged checkpoint.
        average: moving average to load, if the run has one.

    Returns:
        The progress of the run at that checkpoint.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            progress, tensors = _read_checkpoint(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            on_damage(f"checkpoint {path.name} cannot be read ({error}): resuming from the one before")
            continue
        network.load_state_dict(_select_prefix(tensors, "model."))
        _load_optimizer_tensors(network, optimizer, _select_prefix(tensors, "optimizer."))
        if average is not None:
            average.load_state_dict(_select_prefix(tensors, "average."))
        return progress
    return Progress()


def _read_checkpoint(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """Return the progress and the tensors of a checkpoint; raises an error if its contents changed."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if _hash_tensors(tensors) != header["sha256"]:
        raise ValueError("its contents changed")
    arithmetics = [Arithmetic(**facts) for facts in json.loads(header["arithmetics"])]
    totals = StepTotals(**json.loads(header["totals"]))
    return Progress(json.loads(header["history"]), _decode_steps(tensors.pop("steps")), totals, arithmetics), tensors


def load_best_weights(folder: Path, progress: Progress) -> dict[str, Tensor]:
    """Return the weights of the best epoch.

    Raises:
        TrainError: their file is missing or damaged.
    """
    if progress.best is None:
        raise ValueError("no epoch has finished")
    path = folder / f"best-{progress.best['epoch']:04d}.safetensors"
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainError(f"{path} cannot be read ({error}): train again with a new --out") from None
    if hash_weights(weights) != progress.best["weights_sha256"]:
        raise TrainError(f"{path} was changed after it was written: train again with a new --out")
    return weights


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all.

    Args:
        path: the file.
        tensors: name → tensor, on any device.
        header: metadata of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path) as temporary:
        try:
            save_file(_copy_to_cpu(tensors), temporary, metadata=dict(header) if header else None)
        except SafetensorError as error:  # hides the number of the operating system's error in its text
            code = re.search(r"(?:os error|code:) (\d+)", str(error))
            raise (OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error))) from error


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of the names and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _delete_old_checkpoints(folder: Path) -> None:
    """Delete all but the newest checkpoints, and the best weights that none of these refers to."""
    last_paths = list_checkpoints(folder)
    for path in last_paths[:-KEPT]:
        path.unlink(missing_ok=True)
    oldest_epoch = _position(last_paths[-KEPT:][0])[0]
    best_paths = sorted(folder.glob("best-*.safetensors"), key=_position)
    for path in [path for path in best_paths if _position(path)[0] <= oldest_epoch][:-1]:
        path.unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in the order of the run, for any number of epochs and steps."""
    return sorted(folder.glob("last-*.safetensors"), key=_position)


def last_position(names: Iterable[str]) -> tuple[int, int]:
    """Return the finished epochs, and the steps of the next one, of the last checkpoint among some names of files."""
    paths = [Path(name) for name in names if fnmatch(name, "*last-*.safetensors")]
    epoch, step = max(map(_position, paths), default=(0, 0))
    return epoch, step


def _position(path: Path) -> tuple[int, ...]:
    """Return the numbers in a file's name, which may have more digits than usual: epochs, and steps."""
    return tuple(map(int, path.stem.split("-")[1:]))


def _encode_steps(steps: list[StepRow]) -> Tensor:
    """Return rows of schema STEPS as the bytes of an Arrow stream, uint8 [n]."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, STEPS) as writer:
        writer.write_table(pa.Table.from_pylist(steps, schema=STEPS))
    return torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)


def _decode_steps(stream: Tensor) -> list[StepRow]:
    rows: list[StepRow] = pa.ipc.open_stream(stream.numpy().tobytes()).read_all().to_pylist()
    return rows


def _copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, with the prefix removed from their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return `parameter/key` → tensor of the optimiser's state."""
    states = ((name, optimizer.state.get(parameter, {})) for name, parameter in network.named_parameters())
    return {f"{name}/{key}": value for name, state in states for key, value in state.items()}


def _load_optimizer_tensors(
    network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    parameters = dict(network.named_parameters())
    is_fused = bool(optimizer.defaults.get("fused"))
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        if key == "step":  # a fused optimiser counts on the device
            optimizer.state[parameter][key] = value.to(parameter.device) if is_fused else value
        else:  # in the parameter's memory format
            optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(value)
