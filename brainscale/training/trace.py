"""What every step left behind: its loss, and a fingerprint of each tensor of the network.

Two runs that part anywhere part here first: `brainscale verify` reads it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from brainscale.schema import STEPS
from brainscale.storage.tables import read_table, write_table

CHUNK = 2**18
"""Elements that are multiplied at a time: a tensor of any size needs little memory beside it."""
_ROUND = 0x9E3779B97F4A7C15 - 2**64  # odd; 2⁶⁴ over the golden ratio


def multipliers(device: torch.device) -> Tensor:
    """int64 [CHUNK], odd and fixed."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (CHUNK,), generator=generator) * 2 + 1).to(device)


def fingerprints(tensors: Sequence[Tensor], factors: Tensor) -> Tensor:
    """One number for the bits of each tensor, wherever it lives.

    Integer sums wrap around and have no rounding, so their order plays no part. A single bit that differs
    always shows; any other difference stays hidden once in 2⁶⁴ times.

    Args:
        tensors: float32, of any shape.
        factors: what `multipliers` gives on their device.

    Returns:
        int64 [len(tensors)], on their device.
    """
    return torch.stack([_fingerprint(t.detach().contiguous().view(-1).view(torch.int32), factors) for t in tensors])


def _fingerprint(bits: Tensor, factors: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.split(CHUNK):
        total = total * _ROUND + (part * factors[: len(part)]).sum()
    return total


def floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state's tensors that training changes: weights and running statistics, no counters."""
    return {name: t for name, t in state.items() if t.is_floating_point()}


def steps_table(rows: Sequence[Mapping[str, object]], tensors: Sequence[str]) -> pa.Table:
    """Rows of schema STEPS, with the tensors' names in the table's metadata."""
    table = pa.Table.from_pylist(list(rows), schema=STEPS)
    return table.replace_schema_metadata({"tensors": "\n".join(tensors)})


def write_epoch(rows: Sequence[Mapping[str, object]], tensors: Sequence[str], run: Path, epoch: int) -> None:
    """Write the steps of a finished epoch."""
    write_table(steps_table(rows, tensors), run / "steps" / f"epoch-{epoch:04d}.parquet", "steps")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step as the trace has it.

    Attributes:
        epoch: from 1.
        step: of the epoch, from 1.
        values: learning rate, samples, figures, and the fingerprint of each tensor by its name.
    """

    epoch: int
    step: int
    values: dict[str, float]


def read_steps(run: Path) -> Iterator[Step]:
    """The finished epochs' steps, in their order."""
    for path in sorted((run / "steps").glob("epoch-*.parquet")):
        table = read_table(path, "steps")
        tensors = table.schema.metadata[b"tensors"].decode().split("\n")
        for row in table.to_pylist():
            weights = dict(zip(tensors, row.pop("weights"), strict=True))
            yield Step(epoch=row.pop("epoch"), step=row.pop("step"), values={**row, **weights})
