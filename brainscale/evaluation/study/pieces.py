"""The pieces of a study: one model each, trained on its own division of the data and tested on its own samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.manifest import manifest_fingerprint
from brainscale.dataset.splits import assign_splits
from brainscale.evaluation.study.data_sets import IndexedData
from brainscale.evaluation.study.divisions import (
    CONDITIONS,
    Division,
    divide_for_leak,
    divide_into_folds,
    equal_steps,
    take_share,
)
from brainscale.evaluation.study.files import StudyFile, named_weights, with_weights
from brainscale.evaluation.study.sections import Part, Row
from brainscale.hashing import fingerprint


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One model of a study.

    Attributes:
        study: name of the study.
        part: name of the part.
        row: name of the row.
        condition: protocol of a leak part, share of a learning curve; empty elsewhere.
        seed: number of the training seed, from 1.
        repeat: number of the division of the data, from 1.
        fold: number of the fold in it, from 0.
        config: configuration of the run.
        manifest: samples with splits.
        tested: split that the model is tested on; `all` of other data.
        test_manifest: other data to test on, or None.
        baseline: name of the baseline in place of a network, or None.
        weights_sha256: hash of the file of initial weights, or None without one.
    """

    study: str
    part: str
    row: str
    condition: str
    seed: int
    repeat: int
    fold: int
    config: Config
    manifest: pa.Table
    tested: str
    test_manifest: pa.Table | None = None
    baseline: str | None = None
    weights_sha256: str | None = None

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides its predictions; two pieces with one identity are one model."""
        return fingerprint(
            {
                "config": self.config_sha256,
                "manifest": self.manifest_sha256,
                "tested": self.tested,
                "test_manifest": None if self.test_manifest is None else manifest_fingerprint(self.test_manifest),
                "baseline": self.baseline,
            }
        )

    @cached_property
    def config_sha256(self) -> str:
        """Fingerprint of its configuration, wherever a file of initial weights lies, and if it is not here."""
        if self.weights_sha256 is None:
            return self.config.fingerprint
        return with_weights(self.config, self.weights_sha256).fingerprint

    @cached_property
    def manifest_sha256(self) -> str:
        """Fingerprint of its samples and splits."""
        return manifest_fingerprint(self.manifest)

    @property
    def missing_weights(self) -> str | None:
        """Name of initial weights whose place was not given; without them it cannot be run, but a released one used."""
        return named_weights(self.config)

    @property
    def folder(self) -> Path:
        """Its folder, relative to the folder of all runs."""
        row = f"{self.row}-{self.condition}" if self.condition else self.row
        stem = f"fold-{self.fold + 1}-{self.identity[:8]}"
        return Path("runs", self.study, self.part, row, f"seed-{self.seed}", f"repeat-{self.repeat}", stem)

    @property
    def title(self) -> str:
        """Its name for people."""
        condition = f" ({self.condition})" if self.condition else ""
        return f"{self.part}/{self.row}{condition}, seed {self.seed}, repeat {self.repeat}, fold {self.fold + 1}"


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """The pieces of one row under one condition.

    Attributes:
        file: the study.
        part: name of the part.
        row: name of the row.
        condition: as `Piece`.
        pieces: its models, in order; none for a row that averages others.
    """

    file: StudyFile
    part: str
    row: str
    condition: str
    pieces: Sequence[Piece]

    @property
    def sections(self) -> tuple[Part, Row]:
        """The sections of its part and row."""
        part = self.file.study.parts[self.part]
        return part, part.rows[self.row]

    @property
    def data_name(self) -> str:
        """Name of the data set that its models are tested on."""
        part, _ = self.sections
        return part.test_data or part.data


def plan_part(file: StudyFile, name: str, data: Mapping[str, IndexedData]) -> list[RowPlan]:
    """Return the pieces of a part, by row and condition.

    Args:
        file: the study.
        name: name of the part.
        data: its data sets by name.

    Raises:
        ManifestError: the data cannot be divided so.
    """
    part = file.study.parts[name]
    planner = _Planner(file=file, name=name, part=part, data=data, divided={})
    return [
        RowPlan(file=file, part=name, row=row_name, condition=condition, pieces=pieces)
        for row_name, row in part.rows.items()
        for condition, pieces in planner.plan_row(row_name, row).items()
    ]


@dataclass(frozen=True, kw_only=True)
class _Planner:
    file: StudyFile
    name: str
    part: Part
    data: Mapping[str, IndexedData]
    divided: dict[tuple[str, str, int], list[Division]]

    def plan_row(self, name: str, row: Row) -> dict[str, list[Piece]]:
        """Return condition → pieces of a row."""
        conditions = {"leak": CONDITIONS, "learning_curve": tuple(f"{share:g}" for share in self.part.shares)}
        planned = conditions.get(self.part.kind, ("",))
        if row.average:
            return {condition: [] for condition in planned}
        config = self.file.config_of(self.part, row)
        return {condition: list(self._pieces(name, row, condition, config)) for condition in planned}

    def _pieces(self, name: str, row: Row, condition: str, config: Config) -> Iterator[Piece]:
        part = self.part
        weights_sha256 = self.file.hash_weights(config)
        repeats = part.splits_of(row) if part.kind == "leak" else part.repeats_of(row)
        for repeat in range(1, repeats + 1):
            divisions = self._divide(config, condition, repeat)
            for seed in range(1, part.seeds_of(row) + 1):
                seeded = _with_seed(config, seed)
                for division in divisions:
                    yield Piece(
                        study=self.file.name,
                        part=self.name,
                        row=name,
                        condition=condition,
                        seed=seed,
                        repeat=repeat,
                        fold=division.fold,
                        config=equal_steps(seeded, float(condition)) if part.kind == "learning_curve" else seeded,
                        manifest=division.manifest,
                        tested=division.tested,
                        test_manifest=self.data[part.test_data].manifest if part.test_data else None,
                        baseline=row.baseline,
                        weights_sha256=weights_sha256,
                    )

    def _divide(self, config: Config, condition: str, repeat: int) -> list[Division]:
        key = (fingerprint(config.split.model_dump(mode="json")), condition, repeat)
        if key not in self.divided:
            self.divided[key] = list(self._make_divisions(config, condition, repeat))
        return self.divided[key]

    def _make_divisions(self, config: Config, condition: str, repeat: int) -> Iterator[Division]:
        part, split = self.part, config.split
        manifest = self.data[part.data].manifest
        if part.kind == "leak":
            yield divide_for_leak(manifest, split, condition, repeat)
        elif part.kind == "external":
            assigned = assign_splits(manifest, val=split.val, test=0, seed=split.seed + repeat - 1)
            yield Division(fold=0, manifest=assigned, tested="all")
        else:
            folds = divide_into_folds(manifest, split, folds=part.folds, fold_by=part.fold_by, repeat=repeat)
            for division in folds:
                if part.kind == "learning_curve":
                    kept = take_share(division.manifest, float(condition), split.seed)
                    yield Division(fold=division.fold, manifest=kept)
                else:
                    yield division


def _with_seed(config: Config, seed: int) -> Config:
    """Return the configuration with the training seed of a number, from 1."""
    train = config.train.model_copy(update={"seed": config.train.seed + seed - 1})
    return config.model_copy(update={"train": train})
