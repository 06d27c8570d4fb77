import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale import formatting
from brainscale.models import claim_checklist, model_card
from brainscale.models.bundle import ModelInfo
from brainscale.stats import metrics
from tests.support import pages

EVIL = "</script>|[a](https://evil.example)![x](y)\n# head `code` **bold** <b>&amp; www.evil.example a@b.example"


def made(**more: Any) -> ModelInfo:
    facts: dict[str, Any] = {
        "architecture": "brainmrnet",
        "classes": {"no_tumour": ["no"], "tumour": ["yes"]},
        "preprocess": {},
        "threshold": 0.42,
        "threshold_source": "fixed",
        "parameters": 1_234_567,
        "weights_sha256": "ab" * 32,
        "onnx_sha256": "cd" * 32,
        "manifest_sha256": "ef" * 32,
        "config_sha256": "01" * 32,
        "seed": 42,
        "epoch": 7,
        "versions": {"torch": "2.9.1"},
    }
    return ModelInfo.model_validate(facts | more)


def written(folder: Path, **more: Any) -> str:
    facts = model_card.ModelFacts(**({"card": made()} | more))
    return model_card.write_model_card(folder, facts).read_text(encoding="utf-8")


def rows(text: str) -> dict[int, tuple[str, str]]:
    """The checklist: number → item and answer."""
    lines = re.findall(r"^\| (\d+) \| (.*) \| (.*) \|$", text[text.index("## CLAIM") :], re.MULTILINE)
    return {int(number): (item, answer) for number, item, answer in lines}


def test_the_card_tells_what_the_run_knows(tmp_path: Path) -> None:
    figures = metrics.compute_metrics(*pages.scores(), pages.CLASSES)
    text = written(tmp_path, training={"samples": 200}, metrics=figures, evaluated_on="test")
    assert text.startswith("# brainmrnet")
    for said in (
        "1,234,567",
        "ab" * 32,
        "ef" * 32,
        "0.42 or more",
        "| samples | 200 |",
        "Not a medical device",
        "On test.",
    ):
        assert said in text, said
    assert re.search(r"\| AUROC \| 0\.\d{3} \| 0\.\d{3} to \d\.\d{3} \| 160 \| DeLong", text)
    checklist = rows(text)
    assert sorted(checklist) == list(range(1, 45))
    assert checklist[26][1] == "lowest validation loss: epoch 7"
    assert checklist[44][1] == claim_checklist.OPEN


def test_without_figures_the_card_says_so(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert "None are given here" in text
    assert "Counts are not recorded." in text
    assert rows(text)[28][1] == claim_checklist.OPEN


def test_more_classes_have_no_threshold(tmp_path: Path) -> None:
    classes = {"none": ["no"], "glioma": ["glioma"], "meningioma": ["meningioma"]}
    text = written(tmp_path, info=made(classes=classes))
    assert "The likeliest class is called" in text
    assert "- meningioma\n" in text


def test_what_validation_chose_is_told_with_how(tmp_path: Path) -> None:
    plain = written(tmp_path)
    assert "Temperature" not in plain
    assert "Epoch: 7. How it was chosen: lowest validation loss." in plain
    source = "the lowest log loss on 35 validation samples"
    assert f"Temperature: 1.31. How it was chosen: {source}." in written(
        tmp_path, info=made(temperature=1.31, temperature_source=source)
    )


def test_the_prevalence_of_its_figures_is_named(tmp_path: Path) -> None:
    figures = metrics.compute_metrics(*pages.scores(), pages.CLASSES, prevalence=0.02)
    assert "| PPV at a prevalence of 2 % |" in written(tmp_path, metrics=figures, prevalence=0.02)


def test_answers_of_the_authors_take_precedence(tmp_path: Path) -> None:
    assert rows(written(tmp_path, claim={44: "none", 26: "by hand"}))[26][1] == "by hand"
    with pytest.raises(ValueError, match="CLAIM 2024 has no item 45: items go from 1 to 44"):
        written(tmp_path, claim={45: "x"})


def test_text_from_outside_is_no_markup(tmp_path: Path) -> None:
    evil = made(threshold_source=EVIL, classes={"none": [], f"tumour {EVIL}": []}, versions={EVIL: EVIL})
    text = written(tmp_path, info=evil, training={EVIL: EVIL}, provenance={EVIL: EVIL}, claim={7: EVIL})
    assert "<" not in text
    assert "https://" not in text
    assert "www." not in text
    assert not [line for line in text.splitlines() if line.startswith("# head")]
    assert sorted(rows(text)) == list(range(1, 45))


@given(st.text())
def test_escaped_text_stays_one_cell(text: str) -> None:
    line = formatting.escape_markdown(text)
    assert len(line.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_<\[\]]", line.replace("&lt;", ""))
