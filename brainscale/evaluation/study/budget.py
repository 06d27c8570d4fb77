"""How long a study will take: from pieces of the same row that are done, else from floating-point operations."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.compute as pc

from brainscale.evaluation.study.pieces import Piece, RowPlan
from brainscale.evaluation.study.processes import read_spent, was_computed_here
from brainscale.models.registry import count_flops

DEFAULT_FLOPS_PER_SECOND = 5e10
"""Speed of training on two CPU cores until a piece has been measured; see docs/performance.md."""
EARLY_SHARE = 0.5
"""Share of the epochs that a training which may stop early is taken to need, until one has been measured."""
OVERHEAD_SECONDS = 20.0
"""Seconds of a piece that are not training: its start, reading, and the evaluation."""
BASELINE_SECONDS = 60.0
"""Seconds of a baseline until one has been measured."""
BACKWARD = 3
"""Operations of a training step, as a multiple of the forward pass."""


@dataclass(frozen=True, kw_only=True)
class RowBudget:
    """Hours of one row under one condition.

    Attributes:
        name: its part, row and condition, for people.
        done: number of pieces that are complete.
        left: number of pieces that are not.
        hours_spent: hours that its pieces took so far.
        hours_left: hours that the rest will take.
        source: `measured` (from pieces of this row) or `estimated`.
    """

    name: str
    done: int
    left: int
    hours_spent: float
    hours_left: float
    source: str


class Estimator:
    """Estimates seconds of pieces from those that are done on this machine."""

    def __init__(self, out: Path, plans: Sequence[RowPlan], done: Mapping[str, Path]) -> None:
        """Read what the complete pieces took.

        Args:
            out: folder of all runs.
            plans: all rows.
            done: identity → folder of the complete pieces.
        """
        self._out, self._done = out, done
        self._of_row: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        operations = seconds = 0.0
        counted: set[str] = set()
        for plan in plans:
            for piece in plan.pieces:
                if (folder := done.get(piece.identity)) is None or not was_computed_here(folder):
                    continue
                took = read_spent(folder).seconds
                self._of_row[_row_of(piece)].append(took)
                if piece.baseline is None and piece.identity not in counted and took > OVERHEAD_SECONDS:
                    counted.add(piece.identity)
                    operations += count_operations(piece)
                    seconds += took - OVERHEAD_SECONDS
        self.flops_per_second = operations / seconds if seconds > 0 else DEFAULT_FLOPS_PER_SECOND

    def is_measured(self, piece: Piece) -> bool:
        """Return whether another piece of its row is done."""
        return _row_of(piece) in self._of_row

    def seconds(self, piece: Piece) -> float:
        """Return the seconds that a whole piece takes."""
        if measured := self._of_row.get(_row_of(piece)):
            return sum(measured) / len(measured)
        if piece.baseline is not None:
            return BASELINE_SECONDS
        return OVERHEAD_SECONDS + count_operations(piece) / self.flops_per_second

    def seconds_left(self, piece: Piece) -> float:
        """Return the seconds that a piece still takes, at least those of a start."""
        return max(OVERHEAD_SECONDS, self.seconds(piece) - read_spent(self._out / piece.folder).seconds)

    def budget(self, plans: Sequence[RowPlan]) -> list[RowBudget]:
        """Return the hours of each row; a model that two rows share counts in the first."""
        budgets, counted = [], set[str]()
        for plan in plans:
            own = [piece for piece in plan.pieces if piece.identity not in counted]
            counted |= {piece.identity for piece in own}
            left = [piece for piece in own if piece.identity not in self._done]
            folders = [self._done.get(piece.identity, self._out / piece.folder) for piece in own]
            is_measured = any(self.is_measured(piece) for piece in own)
            condition = f" ({plan.condition})" if plan.condition else ""
            budgets.append(
                RowBudget(
                    name=f"{plan.part}/{plan.row}{condition}",
                    done=len(own) - len(left),
                    left=len(left),
                    hours_spent=sum(read_spent(folder).seconds for folder in folders) / 3600,
                    hours_left=sum(map(self.seconds_left, left)) / 3600,
                    source="measured" if is_measured else "estimated",
                )
            )
        return budgets


def format_budget(budgets: Sequence[RowBudget]) -> str:
    """Return a line for each row that has models: models done and left, hours spent and left, and the sums."""
    rows = [budget for budget in budgets if budget.done + budget.left]
    width = max([len(budget.name) for budget in rows], default=0) + 2
    heading = f"{'Row':<{width}}{'Done':>6}{'Left':>6}{'Hours spent':>13}{'Hours left':>12}"
    lines = [
        f"{each.name:<{width}}{each.done:>6}{each.left:>6}{each.hours_spent:>13.2f}{each.hours_left:>12.2f}"
        f"  {each.source if each.left else ''}".rstrip()
        for each in rows
    ]
    sums = [sum(values) for values in zip(*((e.done, e.left, e.hours_spent, e.hours_left) for e in rows), strict=True)]
    total = "{:>6}{:>6}{:>13.2f}{:>12.2f}".format(*(sums or (0, 0, 0, 0)))
    return "\n".join([heading, *lines, f"{'All':<{width}}{total}"])


def _row_of(piece: Piece) -> tuple[str, str, str, str]:
    return piece.study, piece.part, piece.row, piece.condition


def count_operations(piece: Piece) -> float:
    """Return the floating-point operations of a network's training and validation."""
    counts = {split: pc.sum(pc.equal(piece.manifest["split"], split)).as_py() or 0 for split in ("train", "val")}
    train = piece.config.train
    epochs = train.epochs * (EARLY_SHARE if train.keep == "best" and train.patience < train.epochs else 1)
    images = epochs * (BACKWARD * counts["train"] + counts["val"])
    return images * _flops(piece.config.model.name, len(piece.config.data.classes), piece.config.data.image_size)


@cache
def _flops(name: str, classes: int, size: int) -> int:
    return count_flops(name, classes, size)
