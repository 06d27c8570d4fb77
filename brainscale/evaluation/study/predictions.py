"""The predictions of a row's models: read from the complete pieces, or averaged over other rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from brainscale.errors import FormatError, OutputError
from brainscale.evaluation.results import METRICS_FILE, PREDICTIONS_FILE
from brainscale.evaluation.study.piece_main import EVALUATION
from brainscale.evaluation.study.pieces import Piece, RowPlan
from brainscale.stats.labelled import values_of
from brainscale.stats.repeated_folds import RepeatedPredictions
from brainscale.storage.local import read_success
from brainscale.storage.tables import read_table

Key = tuple[int, int, int]
"""Seed, repeat and fold of a model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelPredictions:
    """A model's predictions of its test samples, sorted by sample.

    Attributes:
        sample_ids: str [n].
        has_tumour: bool [n].
        scores: float64 [n], probability of a tumour.
        threshold: probability of a tumour from which on one is predicted.
        groups: str [n].
    """

    sample_ids: np.ndarray
    has_tumour: np.ndarray
    scores: np.ndarray
    threshold: float
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> "ModelPredictions":
        """Return the predictions of some samples: those of a mask, or of indices."""
        taken = {name: getattr(self, name)[rows] for name in ("sample_ids", "has_tumour", "scores", "groups")}
        return replace(self, **taken)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowPredictions:
    """The predictions of a row under one condition, by model.

    Attributes:
        plan: the row.
        models: seed, repeat and fold → predictions.
        folders: the complete pieces that they come from.
        planned: seed, repeat and fold of the models that the row will have.
    """

    plan: RowPlan
    models: Mapping[Key, ModelPredictions]
    folders: Sequence[Path]
    planned: frozenset[Key]

    def complete_repetitions(self) -> "RowPredictions":
        """Return the row without repetitions that lack a fold: a few folds say nothing of a whole data set."""
        folds = max((fold for _, _, fold in self.planned), default=0) + 1
        counts: dict[tuple[int, int], int] = {}
        for seed, repeat, _ in self.models:
            counts[seed, repeat] = counts.get((seed, repeat), 0) + 1
        complete = {key for key, count in counts.items() if count == folds}
        return replace(self, models={key: each for key, each in self.models.items() if key[:2] in complete})

    def together(
        self, select: Callable[[ModelPredictions], ModelPredictions] = lambda model: model
    ) -> RepeatedPredictions | None:
        """Return the predictions of all models together; None without any.

        Args:
            select: takes some of a model's predictions.
        """
        selected = {key: select(model) for key, model in sorted(self.models.items())}
        kept = {key: model for key, model in selected.items() if len(model.scores)}
        if not kept:
            return None
        models, sizes = list(kept.values()), [len(model.scores) for model in kept.values()]
        numbers = [1000 * repeat + seed for seed, repeat, _ in kept]  # the same for the same repetition of any row
        return RepeatedPredictions(
            has_tumour=np.concatenate([model.has_tumour for model in models]),
            scores=np.concatenate([model.scores for model in models]),
            predicted=np.concatenate([model.scores >= model.threshold for model in models]),
            groups=np.concatenate([model.groups for model in models]),
            repetitions=np.repeat(numbers, sizes),
            folds=np.repeat([fold for _, _, fold in kept], sizes),
        )


def key_of(piece: Piece) -> Key:
    """Return seed, repeat and fold of a piece."""
    return piece.seed, piece.repeat, piece.fold


def keys_of(plan: RowPlan) -> frozenset[Key]:
    """Return seed, repeat and fold of all pieces of a row."""
    return frozenset(map(key_of, plan.pieces))


def read_row(plan: RowPlan, rows: Sequence[RowPlan], done: Mapping[str, Path]) -> RowPredictions:
    """Read the predictions of a row, or average those of the rows that it names.

    Args:
        plan: the row.
        rows: all rows of its part.
        done: identity → folder of the complete pieces.

    Raises:
        OutputError: predictions are missing or damaged.
    """
    _, section = plan.sections
    if not section.average:
        complete = [(piece, done[piece.identity]) for piece in plan.pieces if piece.identity in done]
        models = {key_of(piece): read_piece(piece, folder) for piece, folder in complete}
        folders = [folder for _, folder in complete]
        return RowPredictions(plan=plan, models=models, folders=folders, planned=keys_of(plan))
    named = [each for each in rows if each.row in section.average and each.condition == plan.condition]
    members = [read_row(each, rows, done) for each in named]
    if section.average_seeds:
        seeds = {seed for member in members for seed, _, _ in member.planned}
        members = [_average_seeds(member, seeds) for member in members]
    common = set.intersection(*(set(member.models) for member in members))
    return RowPredictions(
        plan=plan,
        models={key: average([member.models[key] for member in members]) for key in common},
        folders=[],
        planned=frozenset.intersection(*(member.planned for member in members)),
    )


def _average_seeds(row: RowPredictions, seeds: Iterable[int]) -> RowPredictions:
    """Return a row whose models are the means of all seeds of a fold; a fold that lacks a seed has none.

    The same mean stands at each of the seeds, so that it is compared with each model of another row.

    Args:
        row: the row.
        seeds: the seeds that the mean stands at, which may be more than its own.
    """
    of_fold: dict[tuple[int, int], list[Key]] = {}
    for seed, repeat, fold in sorted(row.planned):
        of_fold.setdefault((repeat, fold), []).append((seed, repeat, fold))
    means = {
        fold: average([row.models[key] for key in keys])
        for fold, keys in of_fold.items()
        if row.models.keys() >= set(keys)
    }
    models = {(seed, *fold): mean for fold, mean in means.items() for seed in seeds}
    return replace(row, models=models, planned=frozenset((seed, *fold) for fold in of_fold for seed in seeds))


def average(models: Sequence[ModelPredictions]) -> ModelPredictions:
    """Return the mean probabilities of several models of the same samples, at the mean of their thresholds.

    Raises:
        OutputError: they predicted different samples.
    """
    first = models[0]
    if any(not np.array_equal(model.sample_ids, first.sample_ids) for model in models):
        raise OutputError("rows that are averaged predicted different samples: train them on the same folds")
    return replace(
        first,
        scores=np.mean([model.scores for model in models], 0),
        threshold=float(np.mean([model.threshold for model in models])),
    )


def read_piece(piece: Piece, folder: Path) -> ModelPredictions:
    """Read the predictions of a complete piece.

    Raises:
        OutputError: they are missing or damaged, or were written by another version.
    """
    evaluation = folder / EVALUATION
    try:
        columns = ["sample_id", "label", "probability"]
        table = read_table(evaluation / PREDICTIONS_FILE, "predictions", columns).drop_null().sort_by("sample_id")
        threshold = _threshold(evaluation)
    except (FileNotFoundError, FormatError) as error:
        raise OutputError(f"{evaluation}: {error}; remove the folder, and run the same command again") from None
    negative = next(iter(piece.config.data.classes))
    samples = piece.manifest if piece.test_manifest is None else piece.test_manifest
    groups = pc.coalesce(values_of(table["sample_id"], samples, "group"), table["sample_id"])
    return ModelPredictions(
        sample_ids=np.array(table["sample_id"].to_pylist()),
        has_tumour=np.array(table["label"].to_pylist()) != negative,
        scores=table["probability"].to_numpy().astype(np.float64),
        threshold=threshold,
        groups=np.array(groups.to_pylist()),
    )


def _threshold(evaluation: Path) -> float:
    facts = read_success(evaluation) or {}
    if "threshold" in facts:  # a model that was computed elsewhere has no table of metrics
        return float(facts["threshold"])
    return float(read_table(evaluation / METRICS_FILE, "metrics").schema.metadata[b"threshold"])
