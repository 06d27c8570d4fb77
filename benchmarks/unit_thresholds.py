"""What specificity scans really have: at the threshold of slices, and at the one that is chosen for scans.

python benchmarks/unit_thresholds.py [--studies 200] [--scans 60] [--correlations 0 0.2 0.5 0.8]

Scans have 155 slices. A slice's log-odds are normal, with the given correlation within a scan; a fifth of the slices
of a scan with a tumour show it, 2.5 standard deviations higher. The threshold of slices has a specificity of 0.99. Each
study chooses the aggregation and the threshold of scans on --scans scans with a tumour and as many without, for a
specificity of 0.9 with 90 % confidence, as `train --target-specificity 0.9` does. What they have is then counted on
2,000 scans without a tumour and 1,000 with one, which no study has seen.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import expit
from scipy.stats import norm

from brainscale.config.sections import OperatingConfig
from brainscale.stats.units import Aggregation, LabelledUnits
from brainscale.training.operating_point import choose_unit_point

SLICES = 155
TUMOUR_SLICES, SHIFT = 31, 2.5
SLICE_SPECIFICITY, TARGET = 0.99, 0.9
CLASSES = ("no_tumour", "tumour")
LOG_ODDS = -2.0
"""Of the mean slice without a tumour."""


@dataclass(frozen=True)
class Rates:
    """Specificity and sensitivity of scans."""

    specificity: float
    sensitivity: float


def slice_threshold() -> float:
    """Return the probability that 1 % of the slices without a tumour reach."""
    return float(expit(LOG_ODDS + norm.ppf(SLICE_SPECIFICITY)))


def make_scans(rng: np.random.Generator, without: int, with_tumour: int, correlation: float) -> LabelledUnits:
    """Return made-up scans of a model."""
    labels = np.r_[np.zeros(without, int), np.ones(with_tumour, int)]
    scans = len(labels)
    log_odds = np.sqrt(correlation) * rng.normal(size=(scans, 1)) + np.sqrt(1 - correlation) * rng.normal(
        size=(scans, SLICES)
    )
    log_odds[labels == 1, :TUMOUR_SLICES] += SHIFT
    tumour = expit(LOG_ODDS + log_odds).ravel()
    values = np.stack([1 - tumour, tumour], 1).astype(np.float32).ravel()
    n = scans * SLICES
    table = pa.table(
        {
            "sample_id": [f"{scan}.nii#{i}" for scan in range(scans) for i in range(SLICES)],
            "scan": pa.nulls(n, pa.string()),
            "patient": pa.nulls(n, pa.string()),
            "empty": pa.array(np.zeros(n, bool)),
            "probabilities": pa.ListArray.from_arrays(np.arange(0, 2 * n + 1, 2, np.int32), pa.array(values)),
            "novelty": pa.nulls(n, pa.float32()),
            "error_code": pa.nulls(n, pa.string()),
            "label": np.repeat(np.array(CLASSES)[labels], SLICES).tolist(),
        }
    )
    return LabelledUnits.from_predictions(table, "scan", CLASSES)


def count_rates(scans: LabelledUnits, aggregation: Aggregation, threshold: float) -> Rates:
    """Return what scans have at a threshold."""
    samples = scans.samples(aggregation, threshold)
    predicted = samples.predicted > 0
    return Rates(float((~predicted[~samples.has_tumour]).mean()), float(predicted[samples.has_tumour].mean()))


def run_studies(
    seed: int, test: LabelledUnits, studies: int, scans: int, correlation: float
) -> Iterator[tuple[Aggregation, Rates]]:
    """Yield the aggregation that each study chooses, and what its threshold has on the test scans."""
    for study in range(studies):
        rng = np.random.default_rng([seed, study])
        validation = make_scans(rng, scans, scans, correlation)
        point = choose_unit_point(OperatingConfig(threshold="specificity", target=TARGET), validation)
        if point is None or point.aggregation is None:
            raise RuntimeError("these scans have slices and both classes: they have an operating point")
        yield point.aggregation, count_rates(test, point.aggregation, point.threshold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--scans", type=int, default=60)
    parser.add_argument("--correlations", type=float, nargs="+", default=[0, 0.2, 0.5, 0.8])
    arguments = parser.parse_args()
    print(
        "| correlation | maximum at the slices' threshold | stored threshold | below 0.9 | sensitivity | aggregations |"
    )
    print("|---|---:|---:|---:|---:|---|")
    for correlation in arguments.correlations:
        test = make_scans(np.random.default_rng(0), 2000, 1000, correlation)
        maximum = count_rates(test, "maximum", slice_threshold())
        chosen = list(run_studies(1, test, arguments.studies, arguments.scans, correlation))
        specificity = np.array([rates.specificity for _, rates in chosen])
        sensitivity = np.array([rates.sensitivity for _, rates in chosen])
        counts = Counter(aggregation for aggregation, _ in chosen)
        names = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        print(
            f"| {correlation:g} | {maximum.specificity:.3f} (sensitivity {maximum.sensitivity:.3f}) | "
            f"{specificity.mean():.3f} | {100 * (specificity < TARGET).mean():.1f} % | {sensitivity.mean():.3f} | "
            f"{names} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
