"""A model on pairs of samples that agree in a column, beside what that column alone predicts (`evaluate --match`)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.columns import require_columns
from brainscale.errors import UsageError
from brainscale.evaluation.results import MATCHED_FILE, PAIRS_FILE
from brainscale.evaluation.units import drop_threshold_metrics
from brainscale.models.bundle import Bundle, mark_edited
from brainscale.schema import MATCHED, MATCHED_PAIRS
from brainscale.seeds import derive
from brainscale.stats.estimate import Estimate, estimates_of
from brainscale.stats.labelled import Floats, LabelledProbabilities
from brainscale.stats.matching import MatchingColumns, Pairs, match_samples, predict_from_columns
from brainscale.stats.metrics import measure
from brainscale.stats.paired_tests import ControlComparison, compare_with_control
from brainscale.stats.resampling import Map, group_codes
from brainscale.stats.units import Unit
from brainscale.storage.tables import write_table

SHOWN_STRATA = 30
"""Maximum number of strata in the report."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedSamples:
    """Labelled samples, which of them are paired, and what the columns alone predict for each.

    Attributes:
        sample_ids: ids of the samples, [n].
        columns: the columns, of the same samples.
        pairs: indices of the samples in pairs.
        groups: int [n], number of each sample's group.
        alone: float64 [n], probability of a tumour from the columns alone, by samples of other groups.
        alone_in_pairs: float64 [n], the same as a function of the columns and of nothing else. On pairs `alone` would
            favour the model: a sample's own group is missing from it, so those with a tumour seem less likely to have
            one.
    """

    sample_ids: pa.ChunkedArray
    columns: MatchingColumns
    pairs: Pairs
    groups: np.ndarray
    alone: Floats
    alone_in_pairs: Floats

    @property
    def control_name(self) -> str:
        """Name of the control."""
        return f"{' and '.join(self.columns.names)} alone"


def match_labelled(
    manifest: pa.Table, sample_ids: pa.ChunkedArray, samples: LabelledProbabilities, names: Sequence[str]
) -> MatchedSamples:
    """Pair labelled samples, and predict a tumour from the columns alone by all labelled samples of the manifest.

    Args:
        manifest: manifest of the samples, and of others to learn from.
        sample_ids: ids of the labelled samples, [n].
        samples: their labels and probabilities, in the same order.
        names: columns of the manifest to match on.

    Raises:
        ManifestError: the manifest has no such column.
        UsageError: several columns have numbers.
    """
    require_columns(manifest, names)
    is_learnt = pc.is_in(manifest["label"], pa.array(samples.classes))  # also where a file could not be read
    rows = manifest.select(list(dict.fromkeys(["sample_id", "label", "group", *names]))).filter(is_learnt)
    has_tumour = pc.not_equal(rows["label"], samples.classes[0]).to_numpy()
    groups = group_codes(pc.coalesce(rows["group"], rows["sample_id"]))
    columns = MatchingColumns.of({name: rows[name].to_pylist() for name in names}, has_tumour)
    place = pc.index_in(sample_ids, rows["sample_id"].combine_chunks()).to_numpy()
    evaluated = columns.take(place)
    keys = np.array([derive(0, "match", sample_id) for sample_id in sample_ids.to_pylist()], np.int64)
    return MatchedSamples(
        sample_ids=sample_ids,
        columns=evaluated,
        pairs=match_samples(evaluated, samples.has_tumour, groups[place], keys),
        groups=groups[place],
        alone=predict_from_columns(columns, has_tumour, groups)[place],
        alone_in_pairs=predict_from_columns(columns, has_tumour)[place],
    )


def require_slices(names: Sequence[str], unit: Unit) -> None:
    """Check that slices are evaluated if columns to match on are named.

    Raises:
        UsageError: scans or patients are evaluated.
    """
    if names and unit != "slice":
        raise UsageError(f"--match pairs slices, not {unit}s: remove --unit, or --match")


def require_match(manifest: pa.Table, names: Sequence[str], unit: Unit) -> None:
    """Check that samples can be matched on columns, before anything is predicted.

    Raises:
        UsageError: scans or patients are evaluated, the column is the label, or several columns have numbers.
    """
    require_slices(names, unit)
    if "label" in names:
        raise UsageError("--match label would leave no pair, as the two samples of a pair have different labels")
    types = {name: manifest.schema.field(name).type for name in names}
    numeric = [name for name, kind in types.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    if len(numeric) > 1:
        raise UsageError(f"columns {numeric[0]} and {numeric[1]} both have numbers: match on one of them")


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """Samples that agree in all texts that are matched on.

    Attributes:
        name: their values.
        with_tumour: number of samples with a tumour.
        without_tumour: number of samples without.
        pairs: number of pairs.
    """

    name: str
    with_tumour: int
    without_tumour: int
    pairs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedEvaluation:
    """A model on matched pairs, and on all samples, beside the columns alone.

    Attributes:
        samples: which samples are paired.
        metrics: table of schema METRICS, of the samples in pairs.
        on_all: AUROCs of the model and of the columns alone on all samples.
        on_pairs: the same on the samples in pairs.
        strata: numbers of samples and pairs for each combination of texts that is matched on.
    """

    samples: MatchedSamples
    metrics: pa.Table
    on_all: ControlComparison
    on_pairs: ControlComparison
    strata: Sequence[Stratum]

    @property
    def columns(self) -> str:
        """Names of the columns."""
        return ", ".join(self.samples.columns.names)

    @property
    def caliper(self) -> float | None:
        """Maximum difference within a pair; None without a column of numbers."""
        return self.samples.columns.caliper if self.samples.columns.has_numbers else None

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.samples.pairs)

    @property
    def same_group(self) -> int:
        """Number of pairs within one group."""
        groups, pairs = self.samples.groups, self.samples.pairs
        return int((groups[pairs.with_tumour] == groups[pairs.without_tumour]).sum())

    @property
    def left_out(self) -> int:
        """Number of labelled samples in no pair."""
        return len(self.samples.sample_ids) - 2 * self.pairs

    @property
    def unknown(self) -> int:
        """Number of these whose value in a column is unknown."""
        return int((~self.samples.columns.known).sum())

    @property
    def shown_strata(self) -> Sequence[Stratum]:
        """The strata to show: none where there is one, or too many."""
        return self.strata if 1 < len(self.strata) <= SHOWN_STRATA else ()

    @property
    def headline(self) -> dict[str, Estimate]:
        """Sensitivity and specificity of the model on pairs, by name: of any tumour against none."""
        estimates = estimates_of(self.metrics)
        prefix = "" if "sensitivity" in estimates else "tumour_"
        return {name: estimates[f"{prefix}{name}"] for name in ("sensitivity", "specificity")}

    @property
    def verdict(self) -> str:
        """What the pairs say of the model, in one sentence."""
        difference, name = self.on_pairs.difference, self.samples.control_name
        if difference.low is None:
            return f"On matched pairs the difference from {name} has no interval: {difference.reason}."
        if difference.low > 0:
            return f"On matched pairs the model is better than {name}, so it does not only go by {self.columns}."
        return f"On matched pairs the model is not shown to be better than {name}."

    def table(self) -> pa.Table:
        """Return a table of schema MATCHED."""
        model, control = "model", self.samples.control_name
        auroc = "auroc" if "auroc" in self.metrics["metric"].to_pylist() else "tumour_auroc"
        rows = [{"predictions": model, "samples": "matched", **row} for row in self.metrics.to_pylist()]
        for samples, compared in (("matched", self.on_pairs), ("all", self.on_all)):
            estimates = {model: compared.model, control: compared.control, "difference": compared.difference}
            rows += [
                {"predictions": name, "samples": samples, "metric": auroc, **vars(estimate)}
                for name, estimate in estimates.items()
                if (name, samples) != (model, "matched")
            ]
        return pa.Table.from_pylist(rows, schema=MATCHED)

    def pairs_table(self) -> pa.Table:
        """Return a table of schema MATCHED_PAIRS."""
        matched, columns = self.samples, self.samples.columns
        both = {"with_tumour": matched.pairs.with_tumour, "without_tumour": matched.pairs.without_tumour}
        strata = [columns.stratum_names[i] or None for i in columns.strata[both["with_tumour"]]]
        same = matched.groups[both["with_tumour"]] == matched.groups[both["without_tumour"]]
        data: dict[str, Any] = {name: matched.sample_ids.take(pa.array(rows)) for name, rows in both.items()}
        for name, rows in both.items():
            missing = np.full(len(rows), not columns.has_numbers)
            data[f"value_{name}"] = pa.array(columns.numbers[rows], mask=missing)
        data |= {"stratum": pa.array(strata, pa.string()), "same_group": pa.array(same)}
        return pa.table({name: data[name] for name in MATCHED_PAIRS.names}).cast(MATCHED_PAIRS)


def evaluate_matched(
    matched: MatchedSamples, samples: LabelledProbabilities, *, no_threshold: str | None = None, run: Map = map
) -> MatchedEvaluation:
    """Compute the metrics on pairs, and compare the model with the columns alone.

    Intervals take groups into account, as all do, and the pairs as given: what another matching would change is not in
    them.

    Args:
        matched: what `match_labelled` returned.
        samples: labels and probabilities of the same samples.
        no_threshold: why nothing is predicted, if so.
        run: computes parts of a large bootstrap, as for `measure`.
    """
    rows = matched.pairs.rows
    in_pairs = samples.take(rows)
    return MatchedEvaluation(
        samples=matched,
        metrics=drop_threshold_metrics(measure(in_pairs, run=run), no_threshold),
        on_all=compare_with_control(samples, matched.alone),
        on_pairs=compare_with_control(in_pairs, matched.alone_in_pairs[rows]),
        strata=_count_strata(matched, samples.has_tumour),
    )


def write_matched(folder: Path, evaluation: MatchedEvaluation | None, bundle: Bundle) -> None:
    """Write the metrics on pairs and the pairs, where there are any."""
    if evaluation is not None:
        write_table(mark_edited(evaluation.table(), bundle), folder / MATCHED_FILE, "matched")
        write_table(mark_edited(evaluation.pairs_table(), bundle), folder / PAIRS_FILE, "matched pairs")


def describe_matched(table: pa.Table) -> str:
    """Return a line for the pairs and one for all samples, with the AUROCs of a table of schema MATCHED."""
    lines = []
    for samples, title in (("matched", "On matched pairs"), ("all", "On all samples")):
        rows = [row for row in table.to_pylist() if row["samples"] == samples and row["metric"].endswith("auroc")]
        texts = []
        for row in rows:
            interval = "no interval" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
            value = "–" if row["value"] is None else f"{row['value']:.4f}"
            texts.append(f"{row['predictions']} {value} ({interval})")
        lines.append(f"{title}, AUROC: {', '.join(texts)}")
    return "\n".join(lines)


def _count_strata(matched: MatchedSamples, has_tumour: np.ndarray) -> list[Stratum]:
    columns = matched.columns
    strata = columns.strata
    with_tumour, without_tumour, pairs = (
        Counter(strata[rows].tolist())
        for rows in (has_tumour & columns.known, ~has_tumour & columns.known, matched.pairs.with_tumour)
    )
    return [
        Stratum(name=name, with_tumour=with_tumour[i], without_tumour=without_tumour[i], pairs=pairs[i])
        for i, name in enumerate(columns.stratum_names)
        if with_tumour[i] or without_tumour[i]
    ]
