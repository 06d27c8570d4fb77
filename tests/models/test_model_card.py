import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainscale import formatting
from brainscale.models import claim_checklist, model_card
from brainscale.models.bundle import ModelInfo
from brainscale.stats.metrics import measure
from tests.support.pages import random_samples
from tests.support.samples import labelled

EVIL = "</script>|[a](https://evil.example)![x](y)\n# head `code` **bold** <b>&amp; www.evil.example a@b.example"


def model_info(**more: Any) -> ModelInfo:
    facts: dict[str, Any] = {
        "architecture": "brainmrnet",
        "classes": {"no_tumour": ["no"], "tumour": ["yes"]},
        "preprocess": {},
        "operating_points": {"slice": {"threshold": 0.42, "threshold_source": "fixed"}},
        "parameters": 1_234_567,
        "weights_sha256": "ab" * 32,
        "onnx_sha256": "cd" * 32,
        "manifest_sha256": "ef" * 32,
        "config_sha256": "01" * 32,
        "seed": 42,
        "epoch": 7,
        "versions": {"torch": "2.9.1"},
        "model_sha256": "23" * 32,
    }
    return ModelInfo.model_validate(facts | more)


def write_card(folder: Path, **more: Any) -> str:
    """Write a model card and return its text."""
    facts = model_card.ModelFacts(**({"info": model_info()} | more))
    return model_card.write_model_card(folder, facts).read_text(encoding="utf-8")


def checklist_of(text: str) -> dict[int, tuple[str, str]]:
    """The checklist: number → item and answer."""
    lines = re.findall(r"^\| (\d+) \| (.*) \| (.*) \|$", text[text.index("## CLAIM") :], re.MULTILINE)
    return {int(number): (item, answer) for number, item, answer in lines}


def test_the_card_says_for_how_many_samples_no_patient_is_known(tmp_path: Path) -> None:
    unknown = "The patient is unknown for 3 of 7 samples."
    assert f"\n\n{unknown}\n\nFingerprint" in write_card(tmp_path, unknown_patients=unknown)
    assert "patient is unknown" not in write_card(tmp_path)


def test_the_card_tells_what_the_run_knows(tmp_path: Path) -> None:
    metrics = measure(random_samples())
    text = write_card(tmp_path, training={"samples": 200}, metrics=metrics, evaluated_on="test")
    assert text.startswith("# brainmrnet")
    for words in (
        "1,234,567",
        "ab" * 32,
        "ef" * 32,
        "0.42 or more",
        "| samples | 200 |",
        "Not a medical device",
        "Evaluated on test.",
    ):
        assert words in text, words
    assert re.search(r"\| AUROC \| 0\.\d{3} \| 0\.\d{3} to \d\.\d{3} \| 160 \| DeLong", text)
    checklist = checklist_of(text)
    assert sorted(checklist) == list(range(1, 45))
    assert checklist[26][1] == "lowest validation loss: epoch 7"
    assert checklist[44][1] == claim_checklist.OPEN


def test_a_card_without_metrics_says_so(tmp_path: Path) -> None:
    text = write_card(tmp_path)
    assert "The model is not evaluated yet: run `brainscale evaluate`." in text
    assert "The numbers of samples are not recorded." in text
    assert checklist_of(text)[28][1] == claim_checklist.OPEN


def test_more_classes_have_a_threshold_and_blocks_of_their_own(tmp_path: Path) -> None:
    classes = {"none": ["no"], "glioma": ["glioma"], "meningioma": ["meningioma"]}
    labels = np.arange(60) % 3
    probabilities = np.random.default_rng(1).dirichlet(np.ones(3), 60) * 0.8 + np.eye(3)[labels] * 0.2
    metrics = measure(labelled(labels, probabilities, tuple(classes)))
    text = write_card(tmp_path, info=model_info(classes=classes), metrics=metrics)
    assert "The model predicts a tumour at a probability of" in text
    assert "The probability of a tumour of any kind is 1 less the probability of none" in text
    assert "- meningioma\n" in text
    blocks = text.split("\n## Metrics")[1].split("\n## ")[0].split("\n### ")
    assert [block.splitlines()[0] for block in blocks[1:]] == ["Per class", "Tumour against none"]
    rows = [line for line in blocks[1].splitlines() if line.startswith("|")]
    assert rows[0] == "| class | Sensitivity | Specificity | PPV | NPV | AUROC |"
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| none", "| glioma", "| meningioma"]
    assert {row.count("|") for row in rows} == {7}
    assert "| Macro AUROC |" in blocks[0]
    assert "| Tumour sensitivity |" in blocks[2]
    assert "Sensitivity of" not in text
    assert "of each class: Sensitivity, Specificity, PPV, NPV, AUROC" in checklist_of(text)[28][1]


def test_the_card_says_how_temperature_and_epoch_were_chosen(tmp_path: Path) -> None:
    plain = write_card(tmp_path)
    assert "Temperature" not in plain
    assert "Epoch: 7. How it was chosen: lowest validation loss." in plain
    source = "the lowest log loss on 35 validation samples"
    assert f"Temperature: 1.31. How it was chosen: {source}." in write_card(
        tmp_path, info=model_info(temperature=1.31, temperature_source=source)
    )


def test_the_card_names_the_prevalence_of_its_metrics(tmp_path: Path) -> None:
    metrics = measure(random_samples(), prevalence=0.02)
    assert "| PPV at a prevalence of 2 % |" in write_card(tmp_path, metrics=metrics, prevalence=0.02)


def test_answers_of_the_authors_take_precedence(tmp_path: Path) -> None:
    assert checklist_of(write_card(tmp_path, claim={44: "none", 26: "by hand"}))[26][1] == "by hand"
    with pytest.raises(ValueError, match="CLAIM 2024 has no item 45: items go from 1 to 44"):
        write_card(tmp_path, claim={45: "x"})


def test_text_from_outside_is_no_markup(tmp_path: Path) -> None:
    points = {unit: {"threshold": 0.42, "threshold_source": EVIL, "aggregation": "mean"} for unit in ("slice", "scan")}
    evil = model_info(operating_points=points, classes={"none": [], f"tumour {EVIL}": []}, versions={EVIL: EVIL})
    text = write_card(tmp_path, info=evil, training={EVIL: EVIL}, provenance={EVIL: EVIL}, claim={7: EVIL})
    assert "<" not in text
    assert "https://" not in text
    assert "www." not in text
    assert not [line for line in text.splitlines() if line.startswith("# head")]
    assert sorted(checklist_of(text)) == list(range(1, 45))


@given(st.text())
def test_escaped_text_stays_one_cell(text: str) -> None:
    line = formatting.escape_markdown(text)
    assert len(line.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_<\[\]]", line.replace("&lt;", ""))


def test_the_card_says_how_scans_are_decided(tmp_path: Path) -> None:
    point = {"threshold": 0.42, "threshold_source": "fixed"}
    chosen = {"aggregation_source": "highest AUROC (0.9) on 40 validation scans", "threshold_source": "Youden's index"}
    points = {"slice": point, "scan": {"threshold": 2 / 3, "aggregation": "maximum", **chosen}}
    text = write_card(tmp_path, info=model_info(operating_points=points))
    assert (
        "The probability of a tumour in a scan is the maximum of the slices; a tumour is predicted at 0.666667 "
        "or more. How this was chosen: highest AUROC"
    ) in text
    assert "in a patient is" not in text
