"""The most unusual samples of an evaluation, in its report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from brainscale.evaluation.report.novelty import NoveltySection
from brainscale.evaluation.unusual_samples import SHOWN, summarise_novelty
from brainscale.schema import PREDICTIONS
from tests.support.pages import full_page, minimal_page, write_page
from tests.support.scoring import made_up_bundle
from tests.support.tables import manifest, predictions


def measured(novelty: list[float | None], burned_in: bool = True) -> tuple[pa.Table, pa.Table]:
    """A manifest, and predictions with these novelties."""
    rows = manifest(np.arange(len(novelty)) % 2)
    table = predictions(rows, np.linspace(0, 1, len(novelty)))
    for name, values in (("novelty", novelty), ("burned_in", [burned_in] * len(novelty))):
        field = PREDICTIONS.field(name)
        table = table.set_column(PREDICTIONS.get_field_index(name), field, pa.array(values, field.type))
    return rows, table


def test_the_most_unusual_come_first_and_usual_ones_not_at_all() -> None:
    rows, table = measured([0.5, 1.0, 0.995, None, 0.2, 0.98])
    section = summarise_novelty(made_up_bundle(), rows, table)
    assert (section.samples, section.unusual, section.beyond_all) == (5, 2, 1)
    ids = table["sample_id"].to_pylist()
    assert [case.sample_id for case in section.cases] == [ids[1], ids[2]]
    assert all(case.withheld and case.picture is None for case in section.cases)  # they may show a name
    assert len(summarise_novelty(made_up_bundle(), *measured([1.0] * 20)).cases) == SHOWN


def test_a_model_without_novelty_says_why(tmp_path: Path) -> None:
    bundle = made_up_bundle()
    info = bundle.info.model_copy(update={"novelty_source": "none: it needs 20 validation samples, and there are 9"})
    section = summarise_novelty(replace(bundle, info=info), *measured([None] * 6))
    assert section == NoveltySection(source=info.novelty_source, cases=[])
    page = write_page(tmp_path, minimal_page(novelty=section))
    assert "The model has no novelty (none: it needs 20 validation samples, and there are 9)." in page


def test_the_report_shows_unusual_samples(tmp_path: Path) -> None:
    page = write_page(tmp_path, full_page(tmp_path))
    assert "3 of 160 samples (1.9 %) are more unusual than 99 % of the validation samples" in page
    assert "label <b>unknown</b>" in page
    assert page.index('id="cases"') < page.index('id="novelty"') < page.index('id="samples"')
