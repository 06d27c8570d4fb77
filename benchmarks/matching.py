"""What a column alone says of the label, and how well intervals on matched pairs hold. No model is needed.

python benchmarks/matching.py scans.parquet --match position [--match site] [--by site]
python benchmarks/matching.py --simulate [--studies 400]

The first prints the AUROC of the columns alone on all labelled samples of a manifest and on matched pairs, as `evaluate
--match` shows it beside a model, and the numbers of pairs.

The second simulates studies of 60 patients with 10 slices each. Tumours are frequent in the middle; a patient's slices
share a random effect. The model sees some of a tumour, and some of the position. It counts how often the 95 % intervals
of the AUROC on pairs, and of its difference from the column alone, contain the value of very many patients.
"""

import argparse
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.manifest import read_manifest
from brainscale.evaluation.matched import MatchedEvaluation, MatchedSamples, evaluate_matched, match_labelled
from brainscale.stats.estimate import Estimate
from brainscale.stats.labelled import LabelledProbabilities
from brainscale.stats.matching import MatchingColumns, match_samples, predict_from_columns
from brainscale.stats.paired_tests import ControlComparison, compare_with_control
from brainscale.stats.resampling import group_codes

CLASSES = ("no_tumour", "tumour")
PATIENTS, SLICES, MANY = 60, 10, 20_000


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?")
    parser.add_argument("--match", action="append", default=[])
    parser.add_argument("--by")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--studies", type=int, default=400)
    arguments = parser.parse_args()
    if arguments.simulate:
        simulate(arguments.studies)
    elif arguments.manifest and arguments.match:
        show_column(read_manifest(arguments.manifest), arguments.match, arguments.by)
    else:
        parser.error("give a manifest and --match, or --simulate")


def show_column(manifest: pa.Table, names: list[str], by: str | None) -> None:
    """Print what the columns alone say of the label, and the pairs by the values of another column."""
    rows = manifest.filter(pc.and_(pc.is_null(manifest["error_code"]), pc.is_in(manifest["label"], pa.array(CLASSES))))
    labels = pc.index_in(rows["label"], pa.array(CLASSES)).to_numpy()
    nothing = LabelledProbabilities(
        labels=labels,
        probabilities=np.full((len(labels), 2), 0.5),
        classes=CLASSES,
        groups=group_codes(rows["group"]),
    )
    matched = match_labelled(manifest, rows["sample_id"], nothing, names)
    evaluation = evaluate_matched(matched, nothing)
    _print_column(evaluation, matched, len(labels))
    if by is not None:
        _print_pairs(matched, nothing.has_tumour, rows[by].to_pylist(), by)


def _print_column(evaluation: MatchedEvaluation, matched: MatchedSamples, samples: int) -> None:
    print(f"{samples} samples, {matched.control_name}:")
    print(f"  AUROC on all samples  {_text(evaluation.on_all.control)}")
    print(f"  AUROC on pairs        {_text(evaluation.on_pairs.control)}")
    caliper = "" if evaluation.caliper is None else f", numbers differ by {evaluation.caliper:.4f} at most"
    print(f"  {evaluation.pairs} pairs, {evaluation.same_group} within a group{caliper}")


def _print_pairs(matched: MatchedSamples, has_tumour: np.ndarray, values: list[object], by: str) -> None:
    names = [str(value) for value in values]
    pairs = list(zip(matched.pairs.with_tumour.tolist(), matched.pairs.without_tumour.tolist(), strict=True))
    total, tumours = Counter(names), Counter(n for n, ok in zip(names, has_tumour, strict=True) if ok)
    of_tumour, same = Counter(names[a] for a, _ in pairs), Counter(names[a] for a, b in pairs if names[a] == names[b])
    print(f"\n{by:<12}{'tumour':>8}{'without':>9}{'pairs':>7}{f'same {by}':>12}")
    for name in sorted(total):
        print(f"{name:<12}{tumours[name]:>8}{total[name] - tumours[name]:>9}{of_tumour[name]:>7}{same[name]:>12}")


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def simulate(studies: int) -> None:
    """Print how often intervals contain the value of very many patients."""
    draw = np.random.default_rng(0)
    truth = _study(draw, MANY)
    expected = {"AUROC on pairs": truth.model.value, "difference": truth.difference.value}
    held, pairs = Counter[str](), []
    for _ in range(studies):
        study = _study(draw, PATIENTS)
        pairs.append(study.model.n / 2)
        for name, estimate in (("AUROC on pairs", study.model), ("difference", study.difference)):
            assert estimate.low is not None  # noqa: S101 - for the type checker
            assert estimate.high is not None  # noqa: S101
            held[name] += estimate.low <= expected[name] <= estimate.high
    print(f"{studies} studies of {PATIENTS} patients, {np.mean(pairs):.0f} pairs on average")
    for name, value in expected.items():
        print(f"  {name:<16} true value {value:.3f}, in {held[name] / studies:.3f} of the intervals")


def _study(draw: np.random.Generator, patients: int) -> ControlComparison:
    """Return a model on the pairs of a simulated study, beside the position alone."""
    n = patients * SLICES
    groups = np.repeat(np.arange(patients), SLICES)
    position = np.tile(np.linspace(0, 1, SLICES), patients) + draw.normal(0, 0.03, n)
    middle = 0.25 - np.abs(position - 0.5)
    patient = draw.normal(0, 1, patients)[groups]
    has_tumour = draw.random(n) < 1 / (1 + np.exp(-6 * middle - 0.5 * patient))
    evidence = 1.2 * has_tumour + 4 * middle + 0.5 * draw.normal(0, 1, patients)[groups] + draw.normal(0, 1, n)
    tumour = 1 / (1 + np.exp(-evidence))
    columns = MatchingColumns.of({"position": position.tolist()}, has_tumour)
    rows = match_samples(columns, has_tumour, groups, draw.permutation(n)).rows
    samples = LabelledProbabilities(
        labels=has_tumour.astype(np.int64),
        probabilities=np.stack([1 - tumour, tumour], 1),
        classes=CLASSES,
        groups=groups,
    )
    return compare_with_control(samples.take(rows), predict_from_columns(columns, has_tumour)[rows])


if __name__ == "__main__":
    main()
