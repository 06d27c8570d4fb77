import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import roc_curve

from brainscale.errors import ManifestError
from brainscale.stats import thresholds
from brainscale.stats.decisions import apply_temperature
from tests.support.samples import LONG

both_classes = (
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=60)
    .filter(lambda pairs: {label for label, _ in pairs} == {0, 1})
    .map(lambda pairs: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]) / 20))
)


def rates(labels: np.ndarray, scores: np.ndarray, threshold: float) -> tuple[float, float]:
    predicted = scores >= threshold
    return float(predicted[labels == 1].mean()), float((~predicted[labels == 0]).mean())


def test_youden_by_hand() -> None:
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.4, 0.6, 0.7, 0.9])
    assert thresholds.youden_threshold(labels, scores) == pytest.approx(
        0.3
    )  # of 0.3 and 0.65, the one that misses none


@given(both_classes)
@settings(max_examples=100 if LONG else 40)
def test_no_threshold_beats_youdens(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    reached = sum(rates(labels, scores, thresholds.youden_threshold(labels, scores))) - 1
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert reached == pytest.approx(max(0, (true - false).max()))


def test_neighbouring_floats_are_told_apart() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    assert rates(
        np.array([0, 1]), np.array([low, high]), thresholds.youden_threshold(np.array([0, 1]), np.array([low, high]))
    ) == (1, 1)


@pytest.mark.parametrize(
    ("labels", "missing"), [([1, 1], "without a tumour"), ([0, 0], "with a tumour"), ([], "with a tumour")]
)
def test_one_class_gives_no_threshold(labels: list[int], missing: str) -> None:
    scores = np.linspace(0, 1, len(labels))
    with pytest.raises(ManifestError, match=f"validation samples of both classes: there is none {missing}"):
        thresholds.youden_threshold(np.array(labels), scores)
    with pytest.raises(ManifestError, match="two classes or more: there are none, or of one only"):
        thresholds.fit_temperature(np.array(labels), np.tile([0.5, 0.5], (len(labels), 1)))


def test_what_is_no_number_gives_no_threshold() -> None:
    with pytest.raises(ManifestError, match="not a finite number"):
        thresholds.youden_threshold(np.array([0, 1]), np.array([np.nan, 1]))
    with pytest.raises(ManifestError, match="not a finite number"):
        thresholds.fit_temperature(np.array([0, 1]), np.full((2, 2), np.nan))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(classes: int, true: float) -> None:
    """Labels drawn from softmax(logits / T): the most likely temperature is T, but for chance."""
    generator = np.random.default_rng(int(true * 10) + classes)
    logits = generator.normal(size=(20_000, classes)) * 2
    labels = (softmax(logits / true, axis=1).cumsum(1) < generator.random((20_000, 1))).sum(1)
    fitted = thresholds.fit_temperature(labels, softmax(logits, axis=1))
    assert fitted == pytest.approx(true, rel=0.05)
    calibrated = apply_temperature(softmax(logits, axis=1), fitted)
    assert calibrated.sum(1) == pytest.approx(1)
    assert thresholds.fit_temperature(labels, calibrated) == pytest.approx(1, abs=1e-3)


def test_the_temperature_is_the_least_log_loss() -> None:
    generator = np.random.default_rng(3)
    probabilities, labels = generator.dirichlet((1, 1, 1), 50), generator.integers(0, 3, 50)

    def loss(t: float) -> float:
        return float(-np.log(apply_temperature(probabilities, t)[np.arange(50), labels]).mean())

    fitted = thresholds.fit_temperature(labels, probabilities)
    assert loss(fitted) <= min(loss(t) for t in np.geomspace(thresholds.COLDEST, thresholds.HOTTEST, 400)) + 1e-9


def test_where_all_predictions_are_correct_the_temperature_is_the_bound() -> None:
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7]])
    assert thresholds.fit_temperature(np.array([0, 1]), probabilities) == pytest.approx(thresholds.COLDEST)
    assert thresholds.fit_temperature(np.array([1, 0]), probabilities) == pytest.approx(thresholds.HOTTEST)


def test_temperature_one_changes_nothing_and_none_reorders() -> None:
    probabilities = np.random.default_rng(0).dirichlet((1, 1), 30)
    assert apply_temperature(probabilities, 1) == pytest.approx(probabilities)
    for t in (0.2, 5.0):
        changed = apply_temperature(probabilities, t)[:, 1]
        assert np.array_equal(np.argsort(changed), np.argsort(probabilities[:, 1]))
        assert np.array_equal(changed >= 0.5, probabilities[:, 1] >= 0.5)


def test_certain_probabilities_have_a_temperature() -> None:
    probabilities = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)
    assert thresholds.fit_temperature(np.array([0, 1, 0, 0]), probabilities) > 1
