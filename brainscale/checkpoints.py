"""What training needs to go on: weights, optimiser and history, in files that appear whole or not at all.

`last-0007.safetensors` is the state after epoch 7, with the history as JSON in its header;
`best-0005.safetensors` the best weights so far, written before the `last` that counts on it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)
KEPT = 2  # the latest, and one to fall back to


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        history: one row of schema HISTORY for each finished epoch.
    """

    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the weights that would be kept now."""
        return next((row for row in reversed(self.history) if row["best"]), None)

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
    """Write the state after the last epoch of `progress`, then drop what it supersedes."""
    folder.mkdir(parents=True, exist_ok=True)
    best = progress.best
    if best is not None and best["epoch"] == progress.epoch:
        _write(folder / f"best-{progress.epoch:04d}.safetensors", network.state_dict(), {})
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in _moments(network, optimizer).items()}
    header = {"history": json.dumps(progress.history)}
    _write(folder / f"last-{progress.epoch:04d}.safetensors", tensors, header)
    _prune(folder)


def load_latest(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put the newest readable state into network and optimiser; nothing there means a fresh start.

    A damaged file is passed over, with a warning that names it.
    """
    for path in sorted(folder.glob("last-*.safetensors"), reverse=True):
        try:
            with safe_open(path, framework="pt") as file:
                history = json.loads(file.metadata()["history"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("checkpoint %s cannot be read (%s): going back to the one before", path.name, error)
            continue
        network.load_state_dict(_with_prefix(tensors, "model."))
        _restore_moments(network, optimizer, _with_prefix(tensors, "optimizer."))
        return Progress(history)
    return Progress()


def load_best(folder: Path, progress: Progress) -> dict[str, Tensor]:
    """The weights of the best epoch."""
    if progress.best is None:
        raise ValueError("no epoch has finished")
    weights: dict[str, Tensor] = load_file(folder / f"best-{progress.best['epoch']:04d}.safetensors")
    return weights


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    save_file(_contiguous(tensors), aside, metadata=header or None)
    with aside.open("rb") as file:
        os.fsync(file.fileno())  # a rename may reach the disk before the bytes
    aside.replace(path)


def _prune(folder: Path) -> None:
    lasts = sorted(folder.glob("last-*.safetensors"))
    for path in lasts[:-KEPT]:
        path.unlink()
    oldest = int(lasts[max(0, len(lasts) - KEPT)].stem.split("-")[1])
    bests = sorted(folder.glob("best-*.safetensors"))
    needed = [p for p in bests if int(p.stem.split("-")[1]) <= oldest][-1:]
    for path in bests:
        if path not in needed and int(path.stem.split("-")[1]) <= oldest:
            path.unlink()


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
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
