"""What training needs to go on: weights, optimiser and position, in files that appear whole or not at all.

`last-0007-000120.safetensors` is the state after 7 epochs and 120 steps of the eighth; the history of the
epochs and the steps of the one under way are inside. `best-0005.safetensors` holds the best weights so far,
written before the `last` that counts on it. Nothing is pickled.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from brainscale.errors import TrainError
from brainscale.schema import STEPS
from brainscale.storage.local import replacing
from brainscale.training.history import Epoch

KEPT = 2  # the latest, and one to fall back to


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        history: one row of schema HISTORY for each finished epoch.
        steps: one row of schema STEPS for each step of the epoch under way.
    """

    history: list[Epoch] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def best(self) -> Epoch | None:
        """The row of the weights that would be kept now."""
        return next((row for row in reversed(self.history) if row["best"]), None)

    @property
    def name(self) -> str:
        """Of its checkpoint's file."""
        return f"last-{self.epoch:04d}-{len(self.steps):06d}.safetensors"

    def improves(self, val_loss: float, min_gain: float) -> bool:
        """Whether a validation loss is better than the best so far by more than `min_gain`."""
        return self.best is None or val_loss < self.best["val_loss"] - min_gain

    def exhausted(self, patience: int) -> bool:
        """Whether `patience` epochs have passed without a better one."""
        return self.best is not None and self.epoch - self.best["epoch"] >= patience


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """sha256 of the weights as a safetensors file holds them: what `sha256sum` says of the bundle's file."""
    return hashlib.sha256(save(_contiguous(weights))).hexdigest()


def save_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write the state that `progress` has reached, then drop what it supersedes."""
    folder.mkdir(parents=True, exist_ok=True)
    best = progress.best
    if best is not None and best["epoch"] == progress.epoch and not progress.steps:
        _write(folder / f"best-{progress.epoch:04d}.safetensors", network.state_dict(), {})
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in _moments(network, optimizer).items()}
    tensors = _contiguous(tensors | {"steps": _to_tensor(progress.steps)})
    header = {"history": json.dumps(progress.history), "sha256": _digest(tensors)}
    _write(folder / progress.name, tensors, header)
    _prune(folder)


def load_latest(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    on_damage: Callable[[str], None] = lambda text: None,
) -> Progress:
    """Put the newest readable state into network and optimiser; nothing there means a fresh start.

    Args:
        folder: where checkpoints are.
        network: of the run.
        optimizer: of the network.
        on_damage: told of each file that is passed over because it is damaged.
    """
    for path in sorted(folder.glob("last-*.safetensors"), reverse=True):
        try:
            progress, tensors = _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            on_damage(f"checkpoint {path.name} cannot be read ({error}): going back to the one before")
            continue
        network.load_state_dict(_with_prefix(tensors, "model."))
        _restore_moments(network, optimizer, _with_prefix(tensors, "optimizer."))
        return progress
    return Progress()


def _read(path: Path) -> tuple[Progress, dict[str, Tensor]]:
    """A checkpoint's position and tensors; raises for anything that is not as it was written."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if _digest(tensors) != header["sha256"]:
        raise ValueError("its contents changed")
    return Progress(json.loads(header["history"]), _from_tensor(tensors.pop("steps"))), tensors


def load_best(folder: Path, progress: Progress) -> dict[str, Tensor]:
    """The weights of the best epoch.

    Raises:
        TrainError: their file is absent or damaged.
    """
    if progress.best is None:
        raise ValueError("no epoch has finished")
    path = folder / f"best-{progress.best['epoch']:04d}.safetensors"
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainError(f"{path} cannot be read ({error}): train again with another --out") from None
    if weights_sha256(weights) != progress.best["weights_sha256"]:
        raise TrainError(f"{path} changed after it was written: train again with another --out")
    return weights


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    with replacing(path) as aside:
        save_file(_contiguous(tensors), aside, metadata=header or None)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the bytes of all tensors, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _prune(folder: Path) -> None:
    lasts = sorted(folder.glob("last-*.safetensors"))
    for path in lasts[:-KEPT]:
        path.unlink(missing_ok=True)
    oldest = int(lasts[max(0, len(lasts) - KEPT)].stem.split("-")[1])
    bests = [p for p in sorted(folder.glob("best-*.safetensors")) if int(p.stem.split("-")[1]) <= oldest]
    for path in bests[:-1]:
        path.unlink(missing_ok=True)


def _to_tensor(steps: list[dict[str, Any]]) -> Tensor:
    """Rows of schema STEPS as the bytes of an Arrow stream, uint8 [n]."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, STEPS) as writer:
        writer.write_table(pa.Table.from_pylist(steps, schema=STEPS))
    return torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)


def _from_tensor(stream: Tensor) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.ipc.open_stream(stream.numpy().tobytes()).read_all().to_pylist()
    return rows


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    named = ((name, optimizer.state.get(p, {})) for name, p in network.named_parameters())
    return {f"{name}/{key}": value for name, state in named for key, value in state.items()}


def _restore_moments(network: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for place, value in moments.items():
        name, _, key = place.rpartition("/")
        parameter = parameters[name]
        kept = value if key == "step" else torch.empty_like(parameter).copy_(value)  # in the parameter's layout
        optimizer.state[parameter][key] = kept
