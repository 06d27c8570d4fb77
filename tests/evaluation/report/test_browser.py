"""The report in a real browser (Chromium)."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from brainscale.evaluation.report.cases import CaseRow
from brainscale.evaluation.report.curves import count_at_threshold
from brainscale.evaluation.report.page import ReportPage
from tests.support import cdp, pages
from tests.support.pdf import fill_of_pages
from tests.support.samples import labelled

Visit = Callable[[cdp.Tab], Awaitable[None]]
READ = "Object.fromEntries([...document.querySelectorAll('[id^=live-]')].map(e => [e.id.slice(5), e.textContent]))"
COLOURS = """
[...document.querySelectorAll("body *")]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.checkVisibility())
  .map(e => {
    let behind = e;
    while (behind !== document.body && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)")
      behind = behind.parentElement;
    const own = getComputedStyle(e);
    return [e instanceof SVGElement ? own.fill : own.color, getComputedStyle(behind).backgroundColor, e.outerHTML];
  })
"""
CUT = """
[...document.querySelectorAll("body *")]
  .filter(e => !(e instanceof SVGElement) && e.checkVisibility() && getComputedStyle(e).display !== "inline")
  .filter(e => e.clientWidth && !e.classList.contains("skip"))
  .filter(e => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > document.body.clientWidth + 1)
  .map(e => `${e.tagName} ${e.className} ${e.textContent.trim().slice(0, 60)}`)
"""
HEARD = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Page.javascriptDialogOpening")


def visit(folder: Path, page: ReportPage, act: Visit, *, script: bool = True, width: int = 1280) -> cdp.Tab:
    """Open the page and act in it; it must log nothing and request no other address."""
    pages.write_page(folder, page)

    async def go() -> cdp.Tab:
        async with cdp.tab(folder) as tab:
            await tab.open(folder / "report.html", width, 900, script)
            await act(tab)
        return tab

    tab = asyncio.run(go())
    assert tab.named(*HEARD) == []
    asked = {event["request"]["url"] for event in tab.named("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:")} == {(folder / "report.html").as_uri()}
    return tab


def expected(page: ReportPage, threshold: float, prevalence: float) -> dict[str, float]:
    """The same metrics, straight from the samples."""
    counts = count_at_threshold(page.samples.has_tumour, page.samples.tumour_probability, threshold)

    def share(a: float, b: float) -> float:
        return a / b if b else np.nan

    sensitivity = share(counts.tp, counts.with_tumour)
    specificity = share(counts.tn, counts.without_tumour)
    true_positive, false_positive = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    true_negative, false_negative = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return {
        **asdict(counts),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": share(counts.tp, counts.tp + counts.fp),
        "npv": share(counts.tn, counts.tn + counts.fn),
        "ppv-there": share(true_positive, true_positive + false_positive),
        "npv-there": share(true_negative, true_negative + false_negative),
    }


def agree(shown: dict[str, str], metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if np.isnan(value):
            assert shown[name] == "–", name
        else:
            assert float(shown[name].replace(",", "")) == pytest.approx(value, abs=5.1e-4), name


def set_to(name: str, value: float) -> str:
    field = f"document.getElementById('{name}')"
    return f"{field}.value = '{value}'; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))"


def test_the_slider_computes_what_python_computes(tmp_path: Path) -> None:
    page = pages.full_page(tmp_path)
    prevalence = round(100 * float(page.samples.has_tumour.mean()), 1) / 100

    async def act(tab: cdp.Tab) -> None:
        agree(await tab.run(READ), expected(page, 0.4237, prevalence))  # as written, before any move
        for threshold in (0.0, 0.001, 0.25, 0.5, 0.731, 0.999, 1.0):
            await tab.run(set_to("threshold", threshold))
            agree(await tab.run(READ), expected(page, threshold, prevalence))
        for threshold, percent in ((0.3, 1), (0.3, 0), (0.8, 100)):
            await tab.run(set_to("threshold-number", threshold))
            await tab.run(set_to("prevalence", percent))
            agree(await tab.run(READ), expected(page, threshold, percent / 100))
        await tab.run("document.getElementById('own').click()")
        agree(await tab.run(READ), expected(page, 0.4237, 1))
        assert "At threshold 0.4237: " in await tab.run("document.getElementById('live').textContent")

    visit(tmp_path, page, act)


def test_the_marks_follow_and_keys_move_the_slider(tmp_path: Path) -> None:
    page = pages.full_page(tmp_path, threshold=0.5)
    position = "(id => document.querySelector(`#${id} .mark`).getAttribute('transform').match(/[\\d.]+/g).map(Number))"

    async def act(tab: cdp.Tab) -> None:
        await tab.run("document.getElementById('threshold').focus()")
        for kind in ("keyDown", "keyUp"):
            key = {"key": "ArrowRight", "code": "ArrowRight", "windowsVirtualKeyCode": 39}
            await tab.send("Input.dispatchKeyEvent", type=kind, **key)
        assert await tab.run("document.getElementById('threshold-number').value") == "0.501"
        await tab.run(set_to("threshold", 0.7))
        own = expected(page, 0.7, 0.4)
        assert await tab.run(f"{position}('histogram')") == pytest.approx([46 + 264 * 0.7, 12 + 232])
        on_roc = [46 + 264 * (1 - own["specificity"]), 12 + 232 * (1 - own["sensitivity"])]
        assert await tab.run(f"{position}('roc')") == pytest.approx(on_roc)
        on_curve = [46 + 264 * own["sensitivity"], 12 + 232 * (1 - own["ppv"])]
        assert await tab.run(f"{position}('pr')") == pytest.approx(on_curve)

    visit(tmp_path, page, act)


def test_a_name_does_not_run_and_the_policy_would_stop_it(tmp_path: Path) -> None:
    async def act(tab: cdp.Tab) -> None:
        assert await tab.run("document.title") == f"brainmrnet on {pages.EVIL} · brainscale"
        assert await tab.run("document.querySelectorAll('script').length") == 2
        assert await tab.run("document.querySelector('.cases .name').textContent") == pages.EVIL
        code = "var s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
        await tab.run(code)
        assert await tab.run("window.ran") is None
        (message,) = (e["entry"]["text"] for e in tab.named("Log.entryAdded"))
        assert "Content Security Policy" in message
        tab.events = [e for e in tab.events if e["method"] != "Log.entryAdded"]

    visit(tmp_path, pages.full_page(tmp_path), act)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_fits_and_is_not_blank(tmp_path: Path, width: int, height: int) -> None:
    async def act(tab: cdp.Tab) -> None:
        for scheme in ("light", "dark"):
            await tab.resize(width, height, scheme)
            assert await tab.run("document.documentElement.scrollWidth") <= width
            assert await tab.run(CUT) == [], scheme
            weak = [line for line in await tab.run(COLOURS) if contrast(line[0], line[1]) < 4.5]
            assert weak == [], scheme
            with Image.open(await tab.picture(tmp_path / f"{width}x{height}-{scheme}.png")) as shot:
                assert shot.size == (width, height)
                assert len(shot.convert("L").getcolors() or []) > 50

    visit(tmp_path, pages.full_page(tmp_path), act, width=width)


def contrast(*colours: str) -> float:
    """Contrast of two colours, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = np.array([float(p) for p in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted(luminance(colour) for colour in colours)
    return (high + 0.05) / (low + 0.05)


def test_without_script_the_metrics_stay(tmp_path: Path) -> None:
    async def act(tab: cdp.Tab) -> None:
        done = await tab.send("Page.captureScreenshot", format="png")
        assert len(done["data"]) > 10_000
        root = (await tab.send("DOM.getDocument"))["root"]["nodeId"]
        fields: dict[str, Any] = await tab.send("DOM.querySelector", nodeId=root, selector="fieldset[disabled]")
        assert fields["nodeId"]
        note = await tab.send("DOM.querySelector", nodeId=root, selector="noscript p")
        assert note["nodeId"]  # with script, what stands in noscript is text

    visit(tmp_path, pages.full_page(tmp_path), act, script=False)


def test_on_paper_there_are_no_controls(tmp_path: Path) -> None:
    async def act(tab: cdp.Tab) -> None:
        await tab.send("Emulation.setEmulatedMedia", media="print")
        shown = "[...document.querySelectorAll('fieldset, nav, .downloads')].filter(e => e.checkVisibility()).length"
        assert await tab.run(shown) == 0
        assert await tab.run("document.querySelector('#roc').checkVisibility()")
        style = "(name => getComputedStyle(document.querySelector(name)))"
        assert await tab.run(f"{style}('.live').breakInside") == "avoid"  # else a page may end within its numbers
        assert await tab.run(f"{style}('.flow').display") == "flex"  # a sheet is as narrow as a phone, and no phone

    visit(tmp_path, pages.full_page(tmp_path), act, width=700)


def test_printed_pages_are_full(tmp_path: Path) -> None:
    """No page of A4 is left half empty but the last; without a row of pictures to come it would be fuller still."""
    rows = [
        CaseRow(title=f"Row {row}", about="", cases=[pages.case(f"{row}-{i}.png", pages.picture(i)) for i in range(n)])
        for row, n in enumerate((6, 5, 1, 6))
    ]
    page = replace(pages.full_page(tmp_path), cases=rows)

    async def act(tab: cdp.Tab) -> None:
        done = await tab.send("Page.printToPDF", preferCSSPageSize=True)
        pdf = base64.b64decode(done["data"])
        assert b"/MediaBox [0 0 594.95996 841.91998]" in pdf  # A4
        *filled, last = fill_of_pages(pdf)
        assert len(filled) >= 5
        assert min(filled) > 0.5, filled
        assert last > 0.1

    visit(tmp_path, page, act)


def test_one_class_only_and_three_classes_raise_no_error(tmp_path: Path) -> None:
    samples = pages.random_samples(40)
    none, tumour = samples.probabilities.T
    one = pages.minimal_page(labelled(np.ones(40), samples.probabilities))
    three = pages.minimal_page(labelled(samples.labels, np.stack([none, tumour / 2, tumour / 2], 1), "abc"))

    async def act(tab: cdp.Tab) -> None:
        await tab.run(set_to("threshold", 0.2))
        assert "At threshold 0.2: " in await tab.run("document.getElementById('live').textContent")
        await tab.resize(390, 844)
        assert await tab.run(CUT) == []

    for name, page in (("one", one), ("three", three)):
        (tmp_path / name).mkdir()
        visit(tmp_path / name, page, act)
