from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binom, norm
from sklearn import metrics as oracle
from sklearn.linear_model import LogisticRegression

from brainscale.errors import UsageError
from brainscale.schema import METRICS
from brainscale.stats import bootstrap, metrics
from brainscale.stats.decisions import predicted_classes
from brainscale.stats.grouped_samples import GroupedSamples
from brainscale.stats.weighted_metrics import CLIP
from tests.support.samples import LONG, estimates, labelled, two_columns

CASES = 20 if LONG else 6


def test_the_published_row_from_its_own_counts() -> None:
    """BrainMRNet on 50 images: 28 of 30 tumours and 16 of 20 normals classified correctly."""
    labels = np.array([1] * 30 + [0] * 20)
    scores = [0.9] * 28 + [0.1] * 2 + [0.1] * 16 + [0.9] * 4
    rows = estimates(labels, two_columns(scores))
    published = {
        "accuracy": 0.88,
        "sensitivity": 0.9333,
        "specificity": 0.8,
        "macro_precision": 0.8819,
        "macro_recall": 0.8667,
    }
    for name, value in published.items():
        assert rows[name].value == pytest.approx(value, abs=5e-5), name
    assert (rows["accuracy"].low, rows["accuracy"].high) == pytest.approx((0.762, 0.944), abs=5e-4)


samples = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores, many of them tied, some 0 or 1; both classes there."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 50))
    labels = np.r_[0, 1, generator.integers(0, 2, n)]
    levels = int(generator.choice([2, 5, 20, 1000]))
    scores = generator.integers(0, levels + 1, n + 2) / levels
    return labels, 1 - (1 - scores)  # as P(tumour) comes from P(none), to the last bit


@pytest.mark.parametrize("tenth", range(10))
def test_values_are_those_of_scikit_learn_in_random_cases(tenth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)  # this is about values
    for seed in range(20 * tenth, 20 * tenth + CASES):
        labels, scores = random_case(seed)
        predicted = (scores >= 0.5).astype(int)
        macro = {"average": "macro", "zero_division": 0}
        expected = {
            "accuracy": oracle.accuracy_score(labels, predicted),
            "balanced_accuracy": oracle.balanced_accuracy_score(labels, predicted),
            "auroc": oracle.roc_auc_score(labels, scores),
            "average_precision": oracle.average_precision_score(labels, scores),
            "sensitivity": oracle.recall_score(labels, predicted),
            "specificity": oracle.recall_score(labels, predicted, pos_label=0),
            "ppv": oracle.precision_score(labels, predicted, zero_division=np.nan),
            "npv": oracle.precision_score(labels, predicted, pos_label=0, zero_division=np.nan),
            "f1": oracle.f1_score(labels, predicted),
            "mcc": oracle.matthews_corrcoef(labels, predicted) if 0 < predicted.mean() < 1 else np.nan,
            "macro_precision": oracle.precision_score(labels, predicted, **macro),
            "macro_recall": oracle.recall_score(labels, predicted, **macro),
            "brier": oracle.brier_score_loss(labels, scores),
            "log_loss": oracle.log_loss(labels, np.clip(scores, CLIP, 1 - CLIP)),
            "ece": ece_by_hand(labels, scores),
        }
        rows = estimates(labels, two_columns(scores))
        for name, value in expected.items():
            computed = rows[name].value
            assert (np.nan if computed is None else computed) == pytest.approx(value, nan_ok=True), (seed, name)


def ece_by_hand(labels: np.ndarray, scores: np.ndarray) -> float:
    bins = np.minimum(np.floor(scores * 15), 14)
    parts = [bins == k for k in np.unique(bins)]
    return float(sum(part.mean() * abs(labels[part].mean() - scores[part].mean()) for part in parts))


def test_metrics_of_weights_are_those_of_repeated_samples() -> None:
    """What the bootstrap computes from weights is what it would compute from the samples drawn."""
    for seed in range(30 if LONG else 10):
        labels, scores = random_case(seed)
        weights = np.random.default_rng(seed).integers(0, 4, (5, len(labels))).astype(float)
        values = GroupedSamples.of(labelled(labels, two_columns(scores))).measure(weights)
        areas, precisions, errors = (values[name] for name in ("auroc", "average_precision", "ece"))
        for row, area, precision, error in zip(weights.astype(int), areas, precisions, errors, strict=True):
            drawn, ranked = np.repeat(labels, row), np.repeat(scores, row)
            if set(drawn) != {0, 1}:
                assert np.isnan([area, precision]).all()
                continue
            assert area == pytest.approx(oracle.roc_auc_score(drawn, ranked))
            assert precision == pytest.approx(oracle.average_precision_score(drawn, ranked))
            assert error == pytest.approx(ece_by_hand(drawn, ranked))


def test_calibration_is_that_of_an_independent_logistic_regression() -> None:
    for seed in range(40 if LONG else 8):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, 60)
        logits = generator.normal(size=60) * generator.uniform(0.3, 3) + labels
        probability = expit(logits)
        weights = np.r_[np.ones((1, 60)), generator.integers(0, 3, (2, 60))]
        grouped = GroupedSamples.of(labelled(labels, two_columns(probability)))
        slopes, intercepts = grouped.slopes(weights), grouped.measure(weights)["calibration_intercept"]
        for row, slope, intercept in zip(weights, slopes, intercepts, strict=True):
            model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
            model.fit(logit(probability)[:, None], labels, sample_weight=row)
            if np.isinf(slope):  # separated: the other climbs until it gives up
                assert model.coef_[0, 0] > 100
            else:
                assert slope == pytest.approx(model.coef_[0, 0], abs=1e-4)
            # In the large: the mean probability, shifted by the intercept, is the share of tumours.
            assert row @ expit(logits + intercept) == pytest.approx(row @ labels)


def test_a_calibrated_model_has_slope_one_and_intercept_zero() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=50_000) * 2
    has_tumour = generator.random(50_000) < expit(logits)
    for scale in (1, 2):  # twice the logit is overconfident
        values = bootstrap.metric_values(GroupedSamples.of(labelled(has_tumour, two_columns(expit(scale * logits)))))
        assert values["calibration_slope"] == pytest.approx(1 / scale, abs=0.03)
    for shift in (0, 1):  # probabilities that are too low
        values = bootstrap.metric_values(GroupedSamples.of(labelled(has_tumour, two_columns(expit(logits - shift)))))
        assert values["calibration_intercept"] == pytest.approx(shift, abs=0.03)


def test_separated_classes_have_no_slope() -> None:
    has_tumour = np.array([0, 0, 1, 1]) > 0
    for scores, slope in (([0.1, 0.2, 0.8, 0.9], np.inf), ([0.9, 0.8, 0.2, 0.1], -np.inf), ([0.3] * 4, np.nan)):
        fitted = GroupedSamples.of(labelled(has_tumour, two_columns(scores))).slopes(np.ones((1, 4)))
        assert fitted == pytest.approx(slope, nan_ok=True)
    rows = estimates(has_tumour, two_columns([0.1, 0.2, 0.8, 0.9]))
    assert rows["calibration_slope"].value is None
    assert rows["calibration_slope"].reason == bootstrap.REASONS["calibration_slope"]


def test_a_slope_that_rests_on_one_sample_is_undefined() -> None:
    """One sample overlaps: without it, the slope is infinite."""
    slope = estimates([0, 0, 1, 0, 1, 1], two_columns([0.1, 0.2, 0.3, 0.4, 0.8, 0.9]))["calibration_slope"]
    assert (slope.value, slope.high, slope.reason) == (None, None, bootstrap.REASONS["calibration_slope"])


def test_the_error_of_calibration_of_a_calibrated_model_may_be_0() -> None:
    """Resamples' ECE lies above the samples', as that lies above the truth; twice the logit is more than noise."""
    generator = np.random.default_rng(0)
    scores = generator.random(300)
    labels = (generator.random(300) < scores).astype(int)
    row = estimates(labels, two_columns(scores))["ece"]
    assert (row.method, row.reason, row.low) == ("bootstrap", bootstrap.WITHIN_NOISE, 0)
    assert row.value - row.low > row.high - row.value
    row = estimates(labels, two_columns(expit(3 * logit(scores))))["ece"]
    assert (row.reason, row.low > 0.01) == (bootstrap.BIASED, True)


def test_predictive_values_at_a_prevalence_by_hand() -> None:
    """Sensitivity 0.9, specificity 0.8: of 1,000 with 50 tumours, 45 are found and 190 are false positives."""
    labels = np.array([1] * 10 + [0] * 10)
    probabilities = two_columns([0.9] * 9 + [0.1] + [0.1] * 8 + [0.9] * 2)
    rows = estimates(labels, probabilities, prevalence=0.05)
    assert tuple(rows) == (*metrics.METRIC_NAMES, "ppv_at_prevalence", "npv_at_prevalence")
    assert rows["ppv_at_prevalence"].value == pytest.approx(45 / 235)
    assert rows["npv_at_prevalence"].value == pytest.approx(760 / 765)
    at_half = estimates(labels, probabilities, prevalence=0.5)
    assert at_half["ppv_at_prevalence"].value == pytest.approx(at_half["ppv"].value)
    for prevalence in (0, 1, -0.1, np.nan):
        with pytest.raises(UsageError, match="is not between 0 and 1: give 0.05 for 5 %"):
            metrics.compute_metrics(labels, probabilities, prevalence=prevalence)


BOUNDS = dict.fromkeys(("log_loss", "calibration_slope", "calibration_intercept"), (-np.inf, np.inf)) | {"mcc": (-1, 1)}


@given(samples, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=40 if LONG else 12)
def test_what_holds_for_all_inputs(pairs: list[tuple[int, int]], random: Random, grouped: bool) -> None:
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score / 20 for _, score in pairs])
    groups = np.array([random.choice(["a", "b", "c", "d", None]) for _ in pairs]) if grouped else None
    table = metrics.compute_metrics(labels, two_columns(scores), groups=groups, prevalence=0.1)
    assert table.schema == METRICS
    for row in table.to_pylist():
        name, value = row["metric"], row["value"]
        lowest, highest = BOUNDS.get(name, (0, 1))
        assert value is None or lowest <= value <= highest, name
        assert len({row[column] is None for column in ("low", "high", "method")}) == 1, name
        assert row["low"] is not None or row["reason"], name
        if row["low"] is not None:
            assert lowest <= row["low"] <= value <= row["high"] <= highest, name
            assert row["low"] < row["high"], name
    order = random.sample(range(len(pairs)), len(pairs))
    moved = None if groups is None else groups[order]
    again = metrics.compute_metrics(labels[order], two_columns(scores[order]), groups=moved, prevalence=0.1)
    assert again.equals(table)


def test_samples_of_one_patient_widen_the_interval() -> None:
    """Eight copies of each sample: every interval sees 40 patients, and not 320."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(40) % 2, 8)
    scores = np.repeat(expit(generator.normal(size=40) + (np.arange(40) % 2) * 1.5), 8)
    groups = np.repeat(np.arange(40), 8)
    alone = estimates(labels, two_columns(scores))
    by_group = estimates(labels, two_columns(scores), groups=groups)
    once = estimates(labels[::8], two_columns(scores[::8]))
    for name in ("average_precision", "brier", "macro_recall", "f1", "calibration_intercept"):
        wide, narrow, single = (r[name].high - r[name].low for r in (by_group, alone, once))
        assert wide > 2 * narrow, name
        assert wide == pytest.approx(single, rel=0.15), name
        assert by_group[name].method == "bootstrap by group"
    for name in ("accuracy", "auroc", "sensitivity", "specificity", "ppv", "npv"):
        assert by_group[name].value == alone[name].value == once[name].value
        for end in ("low", "high"):
            ours, expected = (getattr(row[name], end) for row in (by_group, once))
            assert ours == pytest.approx(expected, abs=0.01), name
        assert by_group[name].method == f"{once[name].method} by group"
    singles = estimates(labels, two_columns(scores), groups=np.arange(320))
    assert singles["brier"].method == "bootstrap"
    assert singles["accuracy"] == alone["accuracy"]


@pytest.mark.parametrize(
    ("labels", "scores", "absent"),
    [([1, 1, 1], [0.2, 0.7, 0.9], "no_tumour"), ([0, 0], [0.2, 0.7], "tumour"), ([], [], "no_tumour")],
)
def test_a_class_that_is_absent_gives_nulls_with_reasons(labels: list[int], scores: list[float], absent: str) -> None:
    rows = estimates(np.array(labels, int), two_columns(scores))
    assert rows["auroc"].value is None
    assert rows["auroc"].reason == f"no sample of class {absent}"
    assert rows["macro_recall"].value is None


def test_constant_scores_and_three_samples() -> None:
    rows = estimates(np.array([0, 1, 1]), two_columns([0.5, 0.5, 0.5]))
    assert rows["auroc"].value == 0.5
    assert rows["auroc"].reason == "no interval: a class has one sample, or one group"


def test_perfect_separation_claims_no_certainty() -> None:
    rows = estimates(np.array([0, 0, 1, 1]), two_columns([0.1, 0.2, 0.8, 0.9]))
    assert (rows["auroc"].value, rows["auroc"].low, rows["auroc"].high) == (1.0, pytest.approx(0.025**0.5), 1.0)
    assert rows["auroc"].method == "Clopper-Pearson of disjoint pairs"
    for name in ("calibration_slope", "calibration_intercept"):
        assert (rows[name].value, rows[name].low) == (None, None)
        assert rows[name].reason.startswith("the probabilities separate the classes")
    wrong = estimates(np.array([1, 1, 0, 0]), two_columns([0.1, 0.2, 0.8, 0.9]))["auroc"]
    assert (wrong.value, wrong.low, wrong.high) == (0.0, 0.0, pytest.approx(1 - 0.025**0.5))
    three = estimates(np.arange(30) % 3, np.eye(3)[np.arange(30) % 3] * 0.7 + 0.1)
    assert three["macro_auroc"].low == three["auroc_class_1"].low == pytest.approx(0.025**0.1)


def test_a_model_that_separates_all_but_one_sample_has_no_slope() -> None:
    """Without that sample there is none: 1,013 (−2,446 to 4,472) says nothing."""
    labels, scores = np.r_[np.zeros(20, int), np.ones(20, int)], np.linspace(0.495, 0.505, 40)
    labels[[19, 20]] = 1, 0
    rows = estimates(labels, two_columns(scores))
    assert (rows["calibration_slope"].value, rows["calibration_intercept"].value) == (None, None)


def test_pairs_are_disjoint() -> None:
    positive = np.array([1, 1, 0, 0, 0, 1], bool)
    assert metrics.disjoint_pairs(positive, np.arange(6)) == 3
    assert metrics.disjoint_pairs(positive, np.array([0, 0, 1, 2, 3, 0])) == 1
    assert metrics.disjoint_pairs(positive, np.array([0, 1, 0, 1, 2, 2])) == 1  # three groups, each of both classes


@pytest.mark.parametrize("kind", ["two normals", "a share beyond"])
@pytest.mark.parametrize(("m", "n"), [(20, 20), (10, 80)])
def test_the_interval_of_a_perfect_auroc_holds_the_truth(kind: str, m: int, n: int) -> None:
    """At the truth that is hardest to hold: just outside of the interval, 2.5 % of studies at most are perfect."""
    draw, truth, studies = np.random.default_rng(m), 0.025 ** (1 / min(m, n)), 20_000 if LONG else 4000
    if kind == "two normals":
        positive = draw.normal(2**0.5 * norm.ppf(truth), 1, (studies, m))
        negative = draw.normal(size=(studies, n))
    else:
        positive = np.where(draw.random((studies, m)) < truth, 1, -1) if m <= n else np.ones((studies, m))
        negative = np.zeros((studies, n))
    perfect = float((positive.min(1) > negative.max(1)).mean())
    print(f"\n{kind}, {m} and {n}: AUROC {truth:.4f}, held in {1 - perfect:.4f}")  # noqa: T201
    assert binom.sf(perfect * studies - 1, studies, 0.025) > 0.001


def test_a_degenerate_model_is_named() -> None:
    assert metrics.describe_degenerate(labelled([0, 1, 1], two_columns([0.4, 0.2, 0.7]))) is None
    one_class = labelled([0, 1, 1], two_columns([0.8, 0.6, 0.7]))
    assert metrics.describe_degenerate(one_class) == "This model is degenerate: it predicts tumour for every sample."
    constant = labelled([0, 1, 1], two_columns([0.8, 0.8, 0.8]))
    assert metrics.describe_degenerate(constant) == "This model is degenerate: it gives every sample the same score."


def test_macro_intervals_rest_on_resamples_with_every_class() -> None:
    """A resample without a class would count its recall as 0, though nothing was classified wrongly."""
    labels = np.array([0, 0, 1, 1])
    constant = estimates(labels, two_columns([0.5] * 4))["macro_recall"]
    perfect = estimates(labels, two_columns([0.1, 0.2, 0.8, 0.9]))["macro_recall"]
    for row, value in ((constant, 0.5), (perfect, 1.0)):
        assert (row.value, row.low, row.high) == (value, None, None)
        assert row.reason == "no interval: every resample gives the same value"
    many = estimates(np.arange(12), np.eye(12), classes=[str(i) for i in range(12)])
    assert many["macro_precision"].reason == "no interval: too few samples of some class"


def test_a_probability_that_is_no_number_gives_nulls() -> None:
    """Compared with the threshold, NaN would pass for a healthy sample."""
    rows = estimates(np.array([0, 1, 1]), two_columns([0.1, np.nan, 0.9]))
    assert tuple(rows) == metrics.METRIC_NAMES
    assert all(r.value is None and r.reason == "a probability is not a finite number" for r in rows.values())


def test_the_threshold_decides_the_prediction() -> None:
    probabilities = two_columns([0.2, 0.4, 0.6])
    assert predicted_classes(probabilities, 0.4).tolist() == [0, 1, 1]
    assert predicted_classes(probabilities, 0.61).tolist() == [0, 0, 0]
    three = np.array([[0.4, 0.35, 0.25], [0.6, 0.1, 0.3], [0.3, 0.3, 0.4]])  # in the first, some tumour beats none
    assert predicted_classes(three, 0.5).tolist() == [1, 0, 2]
    assert predicted_classes(three, 0.4).tolist() == [1, 2, 2]
    assert predicted_classes(three, np.array([0.61, 0.3, 0.71])).tolist() == [0, 2, 0]


def test_a_threshold_for_each_sample() -> None:
    """Out-of-fold predictions have the thresholds of their own models, whatever the order."""
    labels, scores, thresholds = np.array([0, 1, 1, 0]), [0.3, 0.3, 0.6, 0.6], np.array([0.5, 0.2, 0.5, 0.7])
    rows = estimates(labels, two_columns(scores), threshold=thresholds)
    assert [rows[name].value for name in ("accuracy", "f1", "macro_recall")] == [1, 1, 1]
    rows = estimates(labels[::-1], two_columns(scores[::-1]), threshold=thresholds)
    assert rows["accuracy"].value == 0.5


def draw(generator: np.random.Generator, patients: int, slices: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slices of patients: labels, P(tumour) of an overconfident model, and the patient of each."""
    labels = generator.integers(0, 2, patients)
    logits = 1.2 * (2 * labels - 1) + generator.normal(size=patients)
    each = np.repeat(logits, slices) + 0.5 * generator.normal(size=patients * slices)
    return np.repeat(labels, slices), expit(1.5 * each), np.repeat(np.arange(patients), slices)


def truth() -> dict[str, float]:
    """The metrics on 400,000 patients."""
    labels, scores, _ = draw(np.random.default_rng(0), 400_000, 1)
    counts = oracle.confusion_matrix(labels, scores >= 0.5)
    (specificity, sensitivity), (npv, ppv) = counts.diagonal() / counts.sum(1), counts.diagonal() / counts.sum(0)
    ours = bootstrap.metric_values(GroupedSamples.of(labelled(labels, two_columns(scores))), 0.1)
    proportions = {"sensitivity": sensitivity, "specificity": specificity, "ppv": ppv, "npv": npv}
    return {"accuracy": counts.trace() / counts.sum(), **proportions, **ours}


@pytest.mark.skipif(not LONG, reason="simulates 400 studies twice: set BRAINSCALE_LONG")
@pytest.mark.parametrize(("patients", "slices"), [(200, 1), (60, 5)])
def test_intervals_hold_the_truth_in_95_of_100_studies(patients: int, slices: int) -> None:
    """Counts of 400 studies lie within 3 standard errors, 0.033, of 0.95, or above; few are to be above 0.99.

    The ECE's interval is wide on purpose: it has a lower bound only.
    """
    expected, generator = truth(), np.random.default_rng(patients)
    held: dict[str, list[bool]] = {name: [] for name in expected}
    for _ in range(400):
        labels, scores, groups = draw(generator, patients, slices)
        for name, row in estimates(labels, two_columns(scores), groups=groups, prevalence=0.1).items():
            if row.low is not None and row.high is not None:
                held[name].append(row.low <= expected[name] <= row.high)
    coverage = {name: float(np.mean(times)) for name, times in held.items()}
    print(f"\n{patients} patients, {slices} slices each: {coverage}")  # noqa: T201
    for name, share in coverage.items():
        assert 0.917 <= share <= (1 if name == "ece" else 0.99), (name, share)
