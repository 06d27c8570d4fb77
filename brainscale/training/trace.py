"""Trace a run: write the loss and a fingerprint of every tensor after each step, so that `verify` can compare runs.

Two runs that differ at all differ first in the trace of some step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import torch
from torch import Tensor

from brainscale.schema import STEPS
from brainscale.storage.tables import read_table, write_table

SHARD = 1024
"""Number of steps in a file of the trace, and in memory at most."""
CHUNK = 2**22
"""Number of elements to multiply at a time, so that large tensors need little extra memory."""
_ROUND = 0x9E3779B97F4A7C15 - 2**64  # 2⁶⁴ divided by the golden ratio, an odd number


class StepRow(TypedDict):
    """A finished step: a row of schema STEPS."""

    epoch: int
    step: int
    learning_rate: float
    samples: int
    loss_sum: float
    correct: int
    weights: list[int]


@dataclass
class StepTotals:
    """Totals of the finished steps of an epoch.

    Attributes:
        steps: number of steps.
        samples: number of samples.
        loss_sum: sum of the training loss over the samples, added up step by step.
        correct: number of samples classified correctly.
    """

    steps: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    def add(self, row: StepRow) -> None:
        """Add a step."""
        self.steps += 1
        self.samples += row["samples"]
        self.loss_sum += row["loss_sum"]
        self.correct += row["correct"]


class Fingerprints:
    """Numbers for the bits of some tensors, which keep their memory: the same on every device.

    A fingerprint is a sum of integers with overflow and without rounding, so the order of the terms has no effect. A
    difference in a single bit always changes it; any other difference is missed with a probability of 1 in 2⁶⁴. The
    tensors are read in the order of their memory, a chunk of many tensors at a time: a sum over part of a chunk is the
    difference of two running sums.

    Args:
        tensors: float32, of any shape, without gaps in their memory.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        self._chunks: list[list[Tensor]] = [[]]
        ends: list[list[int]] = [[]]
        owners, factors = [], []
        for number, tensor in enumerate(tensors):
            flat = tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset()).view(torch.int32)
            factor = 1
            while len(flat):
                room = CHUNK - (ends[-1][-1] if ends[-1] else 0)
                if not room:
                    self._chunks.append([])
                    ends.append([])
                    continue
                piece, flat = flat[:room], flat[room:]
                self._chunks[-1].append(piece)
                ends[-1].append((ends[-1][-1] if ends[-1] else 0) + len(piece))
                owners.append(number)
                factors.append(factor)
                factor = (factor * _ROUND + 2**63) % 2**64 - 2**63
        generator = torch.Generator().manual_seed(0)
        length = max(end[-1] for end in ends if end)
        odd = torch.randint(-(2**62), 2**62, (length,), generator=generator) * 2 + 1
        self._multipliers = odd.to(device)
        self._ends = [torch.tensor([end - 1 for end in each], device=device) for each in ends]
        self._owners, self._factors = torch.tensor(owners, device=device), torch.tensor(factors, device=device)
        self._zeros = torch.zeros(len(tensors), dtype=torch.int64, device=device)

    def compute(self) -> Tensor:
        """Return the fingerprints as the tensors are now, int64 [number of tensors], on their device."""
        sums = []
        for pieces, ends in zip(self._chunks, self._ends, strict=True):
            bits = torch.cat(pieces)
            running = (bits * self._multipliers[: len(bits)]).cumsum(0)[ends]
            sums.append(running.diff(prepend=self._zeros[:1]))
        return self._zeros.index_add(0, self._owners, torch.cat(sums) * self._factors)


def select_float_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a state that training changes: weights and running statistics, but no counters."""
    return {name: t for name, t in state.items() if t.is_floating_point()}


def write_steps(rows: Sequence[StepRow], tensors: Sequence[str], run: Path) -> None:
    """Write a shard: up to `SHARD` steps of one epoch, with the names of the tensors in the metadata of the table.

    Shards are cut at fixed steps, so a resumed run writes the same shards again.
    """
    table = pa.Table.from_pylist(list(rows), schema=STEPS)
    table = table.replace_schema_metadata({"tensors": "\n".join(tensors)})
    name = f"epoch-{rows[0]['epoch']:04d}-{(rows[0]['step'] - 1) // SHARD:06d}.parquet"
    write_table(table, run / "steps" / name, "steps")


@dataclass(frozen=True, kw_only=True)
class TracedStep:
    """A step in the trace of a run.

    Attributes:
        epoch: number of the epoch, from 1.
        step: number of the step in the epoch, from 1.
        values: learning rate, samples, loss sum, correct, and the fingerprint of each tensor by its name.
    """

    epoch: int
    step: int
    values: dict[str, float]


def read_steps(run: Path) -> Iterator[TracedStep]:
    """Yield the steps of the finished epochs, in order."""
    for path in sorted((run / "steps").glob("epoch-*.parquet"), key=lambda path: [*map(int, path.stem.split("-")[1:])]):
        table = read_table(path, "steps")
        tensors = table.schema.metadata[b"tensors"].decode().split("\n")
        for row in table.to_pylist():
            weights = dict(zip(tensors, row.pop("weights"), strict=True))
            yield TracedStep(epoch=row.pop("epoch"), step=row.pop("step"), values={**row, **weights})
