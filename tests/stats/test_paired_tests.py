import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from brainscale.errors import UsageError
from brainscale.schema import PAIRS
from brainscale.stats import paired_tests
from brainscale.stats.decisions import predicted_classes
from brainscale.stats.delong import delong_pair
from brainscale.stats.intervals import Z
from brainscale.stats.labelled import LabelledProbabilities
from tests.support.samples import LONG, labelled, two_columns


def test_mcnemar_by_hand() -> None:
    """Two of ten discordant on one side: 2 (1 + 10 + 45) / 1024."""
    correct_a = np.array([True] * 5 + [True] * 2 + [False] * 8 + [False] * 3)
    correct_b = np.array([True] * 5 + [False] * 2 + [True] * 8 + [False] * 3)
    test = paired_tests.mcnemar(correct_a, correct_b)
    assert (test.only_a, test.only_b, test.p) == (2, 8, pytest.approx(112 / 1024))


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=100 if LONG else 30)
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    correct_a = np.array([True] * only_a + [False] * only_b, bool)
    p = paired_tests.mcnemar(correct_a, ~correct_a).p
    assert p == pytest.approx(binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1)


def correctness(differences: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct predictions of two models, and groups in which one has so many more of them than the other."""
    correct_a = np.concatenate([np.full(abs(d), d > 0) for d in differences])
    codes = np.repeat(np.arange(len(differences)), np.abs(differences))
    return correct_a, ~correct_a, codes


PET = [-2, -1, -1, -2, -1, 1]
"""Glands found correctly by PET less by SPECT, where that is not 0 among 21 patients (Obuchowski 1998)."""


def test_mcnemar_by_group_by_hand_and_as_published() -> None:
    """A sum of 6 of at most 8: 1 + 4 of 64 signs reach it on either side. Obuchowski's statistic was 2.86."""
    test = paired_tests.mcnemar(*correctness(PET))
    assert (test.only_a, test.only_b, test.p) == (1, 7, pytest.approx(2 * 5 / 64))
    assert paired_tests.mcnemar(*correctness(PET)[:2]).p == pytest.approx(2 * 9 / 256)  # as if glands were independent
    d = np.array(PET)
    assert 20 / 21 * d.sum() ** 2 / (d**2).sum() == pytest.approx(2.86, abs=5e-3)
    many = paired_tests.mcnemar(*correctness(PET * 300)).p  # 2,400 glands that differ: counted out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired_tests, "EXACT", 0)
        assert paired_tests.mcnemar(*correctness(PET)).p == pytest.approx(chi2.sf(36 / 12, 1))
        assert paired_tests.mcnemar(*correctness(PET * 300)).p == pytest.approx(many, rel=1e-3, abs=1e-12)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(max_examples=60 if LONG else 25)
def test_all_signs_are_counted_out(differences: list[int]) -> None:
    sums = np.array([np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=len(differences))])
    p = paired_tests.mcnemar(*correctness(differences)).p
    assert p == pytest.approx((np.abs(sums) >= abs(sum(differences))).mean())


@pytest.mark.skipif(not LONG, reason="simulates 4,000 studies: set BRAINSCALE_LONG")
def test_mcnemar_by_group_errs_in_5_of_100_studies() -> None:
    """40 patients of 6 slices with dependent predictions: as if slices were independent, it errs far more often."""
    generator, by_group, alone, n = np.random.default_rng(0), 0, 0, 4000
    codes = np.repeat(np.arange(40), 6)
    for _ in range(n):
        share = generator.beta(0.6, 0.6, 40)[codes]  # of a patient's slices on which a is correct where one model is
        differ = generator.random(240) < 0.4
        correct_a = generator.random(240) < share
        pair = correct_a | ~differ, ~correct_a | ~differ
        by_group += paired_tests.mcnemar(*pair, codes).p < 0.05
        alone += paired_tests.mcnemar(*pair).p < 0.05
    print(f"\nerrors by group {by_group / n:.4f}, as if independent {alone / n:.4f}")  # noqa: T201
    assert 0.03 < by_group / n < 0.05 + 3 * (0.05 * 0.95 / n) ** 0.5
    assert alone / n > 0.1


def test_holm_by_hand() -> None:
    """0.01 × 4, then 0.02 × 3 = 0.06, and 0.03 × 2 and 0.04 × 1 raised to it: none is below one before."""
    assert paired_tests.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert paired_tests.holm([0.9, 0.8]) == [1, 1]
    assert paired_tests.holm([0.01, None, 0.02]) == [0.02, None, 0.02]
    assert paired_tests.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=100 if LONG else 30)
def test_holm_keeps_order_and_lowers_nothing(p_values: list[float]) -> None:
    adjusted = np.array(paired_tests.holm(p_values), float)
    assert ((adjusted >= p_values) & (adjusted <= 1)).all()
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1, len(p_values) * min(p_values)))


def three_models() -> dict[str, LabelledProbabilities]:
    generator = np.random.default_rng(5)
    labels = np.arange(120) % 2
    noise = generator.normal(size=120)
    scores = {name: labels * d + noise + generator.normal(size=120) for name, d in (("a", 2), ("b", 1.5), ("c", 0))}
    thresholds = {"a": 0.6, "b": 0.5, "c": 0.5}
    return {
        name: labelled(labels, two_columns(1 / (1 + np.exp(-s))), threshold=thresholds[name])
        for name, s in scores.items()
    }


def test_every_pair_has_a_row() -> None:
    models = three_models()
    table = paired_tests.paired_tests(models)
    assert table.schema == PAIRS
    rows = table.to_pylist()
    assert [(r["a"], r["b"]) for r in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    first = rows[0]
    labels, scores = models["a"].labels, {name: samples.probabilities[:, 1] for name, samples in models.items()}
    pair = delong_pair(scores["a"], scores["b"], labels)
    half = Z * pair.variance**0.5
    expected = (pair.difference, pair.difference - half, pair.difference + half, pair.p)
    assert (first["difference"], first["low"], first["high"], first["p"]) == pytest.approx(expected)
    correct = {name: (scores[name] >= samples.threshold) == labels for name, samples in models.items()}
    assert first["only_a"] == (correct["a"] & ~correct["b"]).sum()
    for name in ("p", "mcnemar_p"):
        assert [r[f"{name}_holm"] for r in rows] == pytest.approx(paired_tests.holm([r[name] for r in rows]))
    assert rows[1]["p_holm"] < 0.05 < rows[0]["n"]


def test_more_than_two_classes_are_a_tumour_against_none() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    a, b = (generator.dirichlet((1, 1, 1), 60) for _ in range(2))
    models = {name: labelled(labels, p, ("none", "glioma", "meningioma")) for name, p in (("a", a), ("b", b))}
    row = paired_tests.paired_tests(models).to_pylist()[0]
    assert row["auroc_a"] == pytest.approx(delong_pair(1 - a[:, 0], b[:, 0], labels > 0).auroc_a)
    correct_a, correct_b = (predicted_classes(p, 0.5) == labels for p in (a, b))
    assert row["only_b"] == (correct_b & ~correct_a).sum()


@pytest.mark.parametrize(
    ("labels", "scores", "reason"),
    [
        ([1, 1, 1], [0.2, 0.7, 0.9], "all samples have a tumour, or none has"),
        ([0, 1, 1], [0.2, np.nan, 0.9], "a probability is not a finite number"),
        ([0, 1, 1], [0.2, 0.7, 0.9], "no interval: a class has one sample, or one group"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "no interval: the AUROCs differ by the same amount for every sample"),
    ],
)
def test_what_does_not_exist_is_null_with_a_reason(labels: list[int], scores: list[float], reason: str) -> None:
    columns = {"a": two_columns(scores), "b": two_columns(np.linspace(0.9, 0.1, len(labels)))}
    models = {name: labelled(labels, probabilities) for name, probabilities in columns.items()}
    row = paired_tests.paired_tests(models).to_pylist()[0]
    assert (row["low"], row["high"], row["p"], row["p_holm"], row["reason"]) == (None, None, None, None, reason)


def test_a_model_of_fewer_samples_is_tested_on_these() -> None:
    draw = np.random.default_rng(0)
    labels, rows = np.arange(40) % 2, np.arange(3, 33)
    a, b, c = (labelled(labels, two_columns(draw.random(40))) for _ in range(3))
    tests = paired_tests.paired_tests({"a": a, "b": b, "c": c.take(rows)}, {"c": rows}).to_pylist()
    assert [test["n"] for test in tests] == [40, 30, 30]
    for test, pair in zip(tests, [(a, b), (a.take(rows), c.take(rows)), (b.take(rows), c.take(rows))], strict=True):
        alone = paired_tests.paired_tests(dict(zip("xy", pair, strict=True))).to_pylist()[0]
        assert [test[name] for name in ("p", "mcnemar_p")] == [alone[name] for name in ("p", "mcnemar_p")]
    assert tests[0]["p_holm"] >= tests[0]["p"]
    with pytest.raises(UsageError, match="c has 30 predictions for 40 samples"):
        paired_tests.paired_tests({"a": a, "c": c.take(rows)})


def test_models_on_other_samples_are_refused() -> None:
    samples = labelled([0, 1], two_columns([0.1, 0.9]))
    with pytest.raises(UsageError, match="b has 1 predictions for 2 samples"):
        paired_tests.paired_tests({"a": samples, "b": samples.take(np.array([0]))})
    with pytest.raises(UsageError, match="b has other labels than the first model: give the same samples"):
        paired_tests.paired_tests({"a": samples, "b": samples.take(np.array([1, 0]))})
    with pytest.raises(UsageError, match="two models"):
        paired_tests.paired_tests({"a": samples})
