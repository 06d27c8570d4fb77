import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from brainscale import formatting
from brainscale.evaluation.report import curves, svg_charts
from brainscale.evaluation.report import page as report_page
from brainscale.evaluation.report.cases import SCALE_GREY, SCALE_STEPS
from brainscale.evaluation.report.plots import draw_plots
from brainscale.seeds import derive
from brainscale.stats.calibration import ECE_BINS
from brainscale.stats.estimate import estimates_of
from brainscale.stats.metrics import measure
from brainscale.stats.resampling import draw_groups
from tests.support import pages
from tests.support.pages import EVIL
from tests.support.samples import LONG, labelled


class Read(HTMLParser):
    """Tags with their attributes, in order, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def embedded(text: str) -> dict[str, object]:
    script = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert script is not None
    data: dict[str, object] = json.loads(script[1])
    return data


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    text = pages.write_page(tmp_path, pages.full_page(tmp_path))
    read = Read(text)
    names = [name for name, _ in read.tags]
    for one in ("h1", "main", "header", "nav", "footer"):
        assert names.count(one) == 1, one
    assert not set(names) & {"iframe", "object", "embed", "form", "base"}
    addresses = [str(a[k]) for _, a in read.tags for k in ("src", "href", "srcset", "action") if k in a]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"https?://", text)
    assert "Not a medical device" in text


def test_the_policy_allows_this_style_and_this_script_only(tmp_path: Path) -> None:
    text = pages.write_page(tmp_path, pages.full_page(tmp_path))
    (policy,) = (a["content"] for a in Read(text).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    style, script = (report_page.FOLDER / name for name in ("report.css", "report.js"))
    assert policy == report_page.security_policy(style.read_text(), script.read_text())
    assert "default-src 'none'" in str(policy)
    assert "unsafe" not in str(policy)
    assert f"<style>{style.read_text()}</style>" in text
    assert f"<script>{script.read_text()}</script>" in text
    for _, attributes in Read(text).tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_a_name_is_never_markup(tmp_path: Path) -> None:
    text = pages.write_page(tmp_path, pages.full_page(tmp_path))
    read = Read(text)
    assert len(read.all("script")) == 2
    assert "alert(1)</script>" not in text
    assert EVIL in read.texts
    assert embedded(text)["names"] == [f"none{EVIL}", f"tumour{EVIL}"]


@given(st.text())
def test_embedded_text_comes_back_and_holds_no_markup(text: str) -> None:
    written = report_page.embed_json({"name": text})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"name": text}


def test_whoever_does_not_see_is_told(tmp_path: Path) -> None:
    text = pages.write_page(tmp_path, pages.full_page(tmp_path))
    read = Read(text)
    ids = [str(a["id"]) for _, a in read.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for attribute in ("for", "aria-labelledby"):
        assert all(set(str(a[attribute]).split()) <= set(ids) for _, a in read.tags if attribute in a)
    assert all(a.get("alt") for a in read.all("img"))
    assert all(a.get("aria-labelledby") or a.get("aria-hidden") for a in read.all("svg"))
    labelled = {a["for"] for a in read.all("label")}
    assert {a["id"] for a in read.all("input")} == labelled
    assert len(read.all("table")) == len(read.all("caption"))
    assert all(a.get("scope") for a in read.all("th"))
    assert next(a["href"] for a in read.all("a")) == "#content"
    levels = [int(name[1]) for name, _ in read.tags if re.fullmatch("h[1-6]", name)]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert len(read.all("noscript")) == 1


def test_the_counts_are_those_of_the_samples(tmp_path: Path) -> None:
    samples = pages.random_samples(500, seed=3, threshold=0.3333)
    data = embedded(pages.write_page(tmp_path, pages.minimal_page(samples)))
    has_tumour, scores = samples.has_tumour, samples.tumour_probability
    for step in range(1001):
        for rows, name in ((has_tumour, "with_tumour"), (~has_tumour, "without_tumour")):
            assert sum(data[name][step:]) == (scores[rows] >= step / 1000).sum()  # type: ignore[index]
    predicted = scores >= 0.3333
    assert data["own"] == {
        "tp": (predicted & has_tumour).sum(), "fn": (~predicted & has_tumour).sum(),
        "fp": (predicted & ~has_tumour).sum(), "tn": (~predicted & ~has_tumour).sum(), "threshold": 0.3333,
    }  # fmt: skip


def test_a_page_of_many_samples_stays_small(tmp_path: Path) -> None:
    page = replace(pages.minimal_page(), samples=pages.random_samples(200_000))
    assert len(pages.write_page(tmp_path, page)) < 250_000


def test_flow_duplicates_evaluations_and_subgroups_are_shown(tmp_path: Path) -> None:
    texts = [t.strip() for t in Read(pages.write_page(tmp_path, pages.full_page(tmp_path))).texts]
    for shown in ("1,234", "files", "empty slice", "30", "duplicates", "31", "3 models"):
        assert shown in texts, shown
    line = texts.index(f"sex{EVIL}: female")
    auroc = estimates_of(measure(pages.random_samples().take(np.arange(150))))["auroc"]
    interval = f"{formatting.format_number(auroc.low)} to {formatting.format_number(auroc.high)}"
    assert [t for t in texts[line + 1 :] if t][:3] == ["150", formatting.format_number(auroc.value), interval]
    line = texts.index(f"sex{EVIL}: {EVIL}")
    assert [t for t in texts[line + 1 :] if t][:3] == ["10", "–", "fewer than 20 samples"]


def test_data_leakage_stands_first(tmp_path: Path) -> None:
    """Metrics with and without the leaked samples, side by side; what is unknown is said to be."""
    page = pages.full_page(tmp_path)
    text = pages.write_page(tmp_path, page)
    assert text.index("Data leakage: 1,402 of these samples") < text.index('<section id="metrics"')
    table = text[text.index("Metrics with and without") :]
    assert page.without_leaked is not None
    for name in report_page.HEADLINE:
        for metrics in (page.metrics, page.without_leaked):
            estimate = estimates_of(metrics)[name]
            assert f">{formatting.format_number(estimate.value)}<" in table, name
            assert f"n = {estimate.n}" in table, name
    none = pages.write_page(tmp_path, replace(page, leaked={}, without_leaked=None))
    assert "Data leakage:" not in none
    assert "None found: no sample of this set" in none
    unknown = pages.write_page(tmp_path, replace(page, leaked=None, without_leaked=None))
    assert "Data leakage:" not in unknown
    assert "<strong>unknown</strong>" in unknown


def test_samples_without_a_label_or_a_known_patient_are_said(tmp_path: Path) -> None:
    unknown = "The patient is unknown for 3 of 7 samples, so slices of one patient may be in different splits."
    page = pages.minimal_page(unlabelled=42, unknown_patients=unknown)
    text = pages.write_page(tmp_path, page)
    assert text.index("42 more samples have no label") < text.index('<section id="metrics"')
    assert f"<p>{unknown}</p>" in text
    text = pages.write_page(tmp_path, replace(page, unlabelled=0, unknown_patients=None))
    assert "no label" not in text
    assert "patient is unknown" not in text


def test_it_begins_with_what_it_is_and_what_the_model_does(tmp_path: Path) -> None:
    page = replace(pages.full_page(tmp_path), degenerate="This model is degenerate: it predicts tumour every time.")
    text = pages.write_page(tmp_path, page)
    order = ["<h1>brainmrnet on", "1 May 2026, 12:00 UTC", "brainscale evaluate", "degenerate", "On 160 labelled test"]
    places = [text.index(part, text.index("<body>")) for part in order]
    assert places == sorted(places)
    assert places[-1] < text.index("Data leakage:") < text.index('<section id="metrics"')


def test_the_control_stands_beside_the_model(tmp_path: Path) -> None:
    page = pages.full_page(tmp_path)
    assert page.control is not None
    assert page.control.control is not None
    text = pages.write_page(tmp_path, page)
    table = text[text.index("Comparison with the header-only control") : text.index("More metrics</h3>")]
    for estimate in (page.control.model, page.control.control, page.control.difference):
        assert estimate is not None
        assert f">{formatting.format_number(estimate.value)}<" in table
        assert f">{formatting.format_number(estimate.low)} to {formatting.format_number(estimate.high)}<" in table
    assert "The model is better than the control" in table
    assert "not shown to be better" not in text
    noise = labelled(page.samples.labels, pages.random_samples().probabilities[::-1])
    text = pages.write_page(tmp_path, pages.minimal_page(noise, control=pages.control(noise)))
    assert text.index("The model is no") < text.index('<section id="metrics"')
    assert "better than the control, which sees no picture.</strong>" in text


def test_cases_stand_in_rows_with_both_pictures_and_a_scale(tmp_path: Path) -> None:
    page = pages.full_page(tmp_path)
    read = Read(pages.write_page(tmp_path, page))
    titles = [text for text in read.texts if text in {row.title for row in page.cases}]
    assert titles == [row.title for row in page.cases]
    shown = [case for row in page.cases for case in row.cases if case.picture]
    assert page.novelty is not None
    unusual = [case for case in page.novelty.cases if case.picture]
    assert len(read.all("img")) == 2 * len(shown) + len(unusual)
    assert [a["href"] for a in read.all("use")] == ["#scale"] * len(shown)
    colours = [str(a["fill"]) for a in read.all("rect")]
    assert len(colours) == SCALE_STEPS
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
    assert colours[0] == f"#{SCALE_GREY:02x}" + f"{SCALE_GREY:02x}" * 2
    assert "stands for 2 more of its group" in " ".join(read.texts)
    assert "not shown: may show a name" in read.texts


def test_the_stated_prevalence_is_named_and_the_fields_own(tmp_path: Path) -> None:
    samples = pages.random_samples()
    metrics = measure(samples, prevalence=0.0005)
    text = pages.write_page(tmp_path, pages.minimal_page(samples, metrics=metrics, prevalence=0.0005))
    assert "PPV at a prevalence of 0.05 %" in text
    field = next(a for a in Read(text).all("input") if a["id"] == "prevalence")
    assert field["value"] == "0.05"
    ppv = estimates_of(metrics)["ppv_at_prevalence"].value
    assert f'id="live-ppv-there">{formatting.format_number(ppv)}<' in text


def test_bins_of_the_calibration_error_are_declared(tmp_path: Path) -> None:
    assert f"in {ECE_BINS} bins of equal width" in pages.write_page(tmp_path, pages.minimal_page())


def test_a_minimal_page_has_no_empty_sections(tmp_path: Path) -> None:
    text = pages.write_page(tmp_path, pages.minimal_page())
    absent_parts = (
        "Training",
        "Least certain",
        "Evaluations of",
        "Subgroups",
        "Excluded",
        "to download",
        "-only control",
    )
    for absent in absent_parts:
        assert absent not in text
    assert "No cases were chosen." in text
    assert "Nothing is recorded" in text


def test_one_class_has_no_curve_and_says_so(tmp_path: Path) -> None:
    samples = labelled(np.ones(4, int), pages.random_samples(4).probabilities)
    text = pages.write_page(tmp_path, pages.minimal_page(samples))
    assert "no sample is without a tumour" in text
    assert "no sample of class no_tumour" in text
    assert 'id="roc"' not in text
    assert 'id="histogram"' in text
    assert draw_plots(samples, tmp_path)[0].alt == "No ROC curve: no sample is without a tumour."


def test_more_than_two_classes_have_blocks_of_their_own(tmp_path: Path) -> None:
    samples = labelled(np.arange(6) % 3, np.eye(3)[np.array([0, 1, 1, 0, 2, 2])], ("none", "a", "b"))
    assert draw_plots(samples, tmp_path)[-1].title == "Confusion matrix at threshold 0.5"
    text = pages.write_page(tmp_path, pages.minimal_page(samples))
    assert "compares a tumour of any kind with no tumour" in text
    assert "the score is the probability of a tumour of any kind, and the kind is the most probable one" in text
    assert '<h3 id="by-class">Per class</h3>' in text
    assert '<h3 id="any-tumour">Tumour against none</h3>' in text
    assert text.count('<th scope="row">Tumour sensitivity ') == 1
    assert '<th scope="row">Sensitivity ' not in text
    table = text[text.index("<h3>Confusion matrix</h3>") :]
    cells = [int(n) for n in re.findall(r'<td class="number[^"]*">(\d+)</td>', table)[:9]]
    assert cells == [2, 0, 0, 0, 1, 1, 0, 1, 1]


def test_a_probability_that_is_no_number_has_no_curve(tmp_path: Path) -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.2, 0.8]])
    samples = labelled([0, 1, 1], probabilities)
    for plot in draw_plots(samples, tmp_path)[:4]:
        assert plot.alt.endswith(": a probability is not a finite number.")
    text = pages.write_page(tmp_path, pages.minimal_page(samples))
    assert "no threshold to move: a probability is not a finite number" in text
    assert "<script" not in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_a_metric_that_is_not_a_number_is_a_dash(tmp_path: Path) -> None:
    page = pages.minimal_page()
    rows = [{**row, "value": float("nan"), "low": None, "high": None} for row in page.metrics.to_pylist()]
    table = pa.Table.from_pylist(rows, schema=page.metrics.schema)
    text = pages.write_page(tmp_path, replace(page, metrics=table))
    assert '<span class="value">–</span>' in text
    assert not re.search(r"\bnan\b", text.split("<script")[0], re.IGNORECASE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0625, "0.063"), (-0.5, "−0.500"), (None, "–"), (float("inf"), "–"), (1234, "1,234"), ("a", "a")],
)
def test_numbers_for_people(value: object, shown: str) -> None:
    assert formatting.format_number(value) == shown


def test_no_accuracy_is_above_one() -> None:
    _, accuracy = svg_charts.history_charts([{**row, "val_accuracy": 1.0} for row in pages.history(3)])
    assert max(float(text) for _, text in accuracy.y_ticks) == 1


def test_a_history_with_gaps_or_one_epoch_can_be_drawn() -> None:
    rows = pages.history(3)
    rows[1]["val_loss"] = float("nan")
    assert "nan" not in str([s.path for c in svg_charts.history_charts(rows) for s in c.shapes])
    loss, accuracy = svg_charts.history_charts(pages.history(1))
    assert (loss.title, accuracy.title) == ("Loss by epoch", "Accuracy by epoch")


def test_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    samples = pages.random_samples(60)
    first, second = (draw_plots(samples, tmp_path / name) for name in "ab")
    for one, other in zip(first, second, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.svg.read_bytes() == other.svg.read_bytes()
        assert b"<dc:date>" not in one.svg.read_bytes()
        with Image.open(one.path) as picture:
            assert min(picture.size) > 500
    assert [p.path.stem for p in first] == ["roc", "precision-recall", "calibration", "scores", "confusion"]
    page = pages.minimal_page(samples)
    assert pages.write_page(tmp_path, page) == pages.write_page(tmp_path, page)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=60))
@settings(max_examples=100 if LONG else 30)
def test_curves_hold_for_all_samples(samples: list[tuple[bool, int]]) -> None:
    has_tumour, scores = np.array([s for s, _ in samples]), np.array([n for _, n in samples]) / 20
    bins = curves.calibration_bins(has_tumour, scores)
    assert sum(b.n for b in bins) == len(has_tumour)
    assert all(0 <= b.low <= b.share <= b.high <= 1 for b in bins)
    ranked = curves.rank_by_score(has_tumour, scores)
    counts = ranked.counts.with_tumour.sum(), ranked.counts.without_tumour.sum()
    assert counts == (has_tumour.sum(), (~has_tumour).sum())
    if has_tumour.all() or not has_tumour.any():
        return
    for curve in (curves.roc_curve(ranked), curves.precision_recall_curve(ranked)):
        assert (curve.low <= curve.high).all()
        assert ((curve.low >= 0) & (curve.high <= 1)).all()
        assert (np.diff(curve.x) >= 0).all()
    assert (np.diff(curves.roc_curve(ranked).y) >= 0).all()


def test_bands_and_bars_see_patients_and_not_slices() -> None:
    """Eight copies of each sample: the bands are those of 60 patients, and not of 480."""
    generator = np.random.default_rng(1)
    has_tumour = np.arange(60) % 2 > 0
    scores = 1 / (1 + np.exp(-generator.normal(size=60) - has_tumour))
    copies, groups = (np.repeat(has_tumour, 8), np.repeat(scores, 8)), np.repeat(np.arange(60), 8)
    ranked = [curves.rank_by_score(*s) for s in ((has_tumour, scores), copies, (*copies, groups))]
    for curve in (curves.roc_curve, curves.precision_recall_curve):
        once, alone, by_group = (float(np.mean(b.high - b.low)) for b in map(curve, ranked))
        assert by_group == pytest.approx(once, rel=0.1)
        assert by_group > 2 * alone
    bars = [curves.calibration_bins(*s) for s in ((has_tumour, scores), copies, (*copies, groups))]
    for once, alone, by_group in zip(*bars, strict=True):
        assert by_group.high - by_group.low == pytest.approx(once.high - once.low, abs=0.1)
        assert by_group.high - by_group.low > 1.5 * (alone.high - alone.low)


def test_bands_come_from_the_resamples_of_the_metrics() -> None:
    generator = np.random.default_rng(1)
    has_tumour, scores, codes = generator.random(50) < 0.5, generator.random(50).round(1), np.arange(50) // 3
    counts = np.concatenate(list(draw_groups(17, curves.RESAMPLES, derive(0, "bootstrap"), width=50)))
    resampled = curves.rank_by_score(has_tumour, scores, codes).resampled
    steps = np.unique(scores, return_inverse=True)[1]
    by_hand = np.stack([np.bincount(steps[has_tumour], row[codes[has_tumour]], 11) for row in counts])
    assert np.array_equal(resampled.with_tumour, by_hand)


def test_the_order_of_scores_near_one_is_not_lost() -> None:
    scores = 1 - np.arange(1, 5001, dtype=np.float64) * 1e-8
    has_tumour = np.arange(5000) < 2500  # the higher half: a perfect order within one step of 0.001
    curve = curves.roc_curve(curves.rank_by_score(has_tumour, scores))
    assert np.trapezoid(curve.y, curve.x) > 0.999
