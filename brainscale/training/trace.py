"""Trace a run: write the loss and a fingerprint of every tensor after each step, so that `verify` can compare runs.

Two runs that differ at all differ first in the trace of some step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from brainscale.schema import STEPS
from brainscale.storage.tables import read_table, write_table

SHARD = 1024
"""Number of steps in a file of the trace, and in memory at most."""


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
